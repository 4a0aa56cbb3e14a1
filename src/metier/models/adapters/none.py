"""Train nothing of the base: only a task head, if the method has one, learns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from metier.core import catalog

if TYPE_CHECKING:
    from metier.models.adapters import Adapter
    from metier.models.base import Base

summary = "The base is frozen; only a task head trains."


class Options(catalog.Options):
    """`none` has no options."""


def attach(base: Base, options: Options, *, seed: int, head: bool) -> Adapter:
    """Freeze the base. `seed` is not used: nothing is drawn; nor is `head`."""
    from metier.models.adapters import store_frozen
    from metier.models.adapters._weights import OwnWeights

    store_frozen(base, set())
    return OwnWeights(base, "none", {}, [])
