"""Exchanging parts of a model under their own names."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn


def put(model: nn.Module, name: str, module: nn.Module) -> None:
    """Set the submodule of a dotted name; it takes on the mode of the one before."""
    parent, _, leaf = name.rpartition(".")
    module.train(model.get_submodule(name).training)
    setattr(model.get_submodule(parent), leaf, module)


def put_all(model: nn.Module, modules: Mapping[str, nn.Module]) -> None:
    """Set several: what `norms.replace` and `gates.replace` returned undoes them."""
    for name, module in modules.items():
        put(model, name, module)
