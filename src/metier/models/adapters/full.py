"""Train every weight of the base (full fine-tuning).

The trained weights are float32; a bfloat16 computation casts them inside autocast. What no gradient reaches is left
frozen: a pooler that the hidden states do not pass through (BERT's), and where a task head reads them, an output layer
with weights of its own.
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


def attach(base: Base, options: Options, *, seed: int, head: bool) -> Adapter:
    """Make every weight trainable. `seed` is not used: nothing is drawn."""
    from metier.models.adapters import store_frozen
    from metier.models.adapters._weights import OwnWeights

    outer = base.model.get_output_embeddings() if head and base.kind == "causal" else None
    read = {id(p) for p in base.model.get_input_embeddings().parameters()}  # tied ones train as embeddings
    beside = set() if outer is None else {id(p) for p in outer.parameters()} - read
    parameters = {name: p for name, p in base.model.named_parameters() if "pooler" not in name.split(".")}
    unreached = {name for name, p in parameters.items() if id(p) in beside}
    for name in unreached:
        del parameters[name]
    store_frozen(base, {id(p) for p in parameters.values()})
    return OwnWeights(base, "full", parameters, [base.model], unreached=unreached)
