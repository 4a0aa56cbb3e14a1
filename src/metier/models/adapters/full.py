"""Train every weight of the base (full fine-tuning).

The trained weights are float32; a bfloat16 computation casts them inside autocast. A pooler that the hidden states do
not pass through (BERT's) is left frozen, since no gradient reaches it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from metier.core import catalog

if TYPE_CHECKING:
    from metier.models.adapters import Adapter
    from metier.models.base import Base

summary = "Every weight of the base trains."


class Options(catalog.Options):
    """`full` has no options."""


def attach(base: Base, options: Options, *, seed: int) -> Adapter:
    """Make every weight trainable. `seed` is not used: nothing is drawn."""
    from metier.models.adapters import store_frozen
    from metier.models.adapters._weights import OwnWeights

    parameters = {name: p for name, p in base.model.named_parameters() if "pooler" not in name.split(".")}
    store_frozen(base, {id(p) for p in parameters.values()})
    return OwnWeights(base, "full", parameters, [base.model])
