"""The adapters that train weights of the base itself (`none`, `layers`, `full`): what they have in common."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from metier.core.errors import MachineError
from metier.models.tensors import fill, read_tensors, write_tensors

if TYPE_CHECKING:
    from torch import Tensor, nn

    from metier.models.base import Base


class OwnWeights:
    """Some of the base's own weights, trained in place.

    Args:
        base: the base; the caller has frozen the rest of it.
        kind: the adapter's name.
        parameters: the trained parameters under their names in the model.
        modules: what goes into training mode.
        file: the file in which `save` keeps them.
        unreached: weights that earlier versions counted among the trained ones although nothing moved them: `load`
            passes over them.
    """

    def __init__(
        self,
        base: Base,
        kind: str,
        parameters: Mapping[str, nn.Parameter],
        modules: Sequence[nn.Module],
        file: str = "trained.safetensors",
        unreached: Collection[str] = (),
    ) -> None:
        self.kind = kind
        self.file = file
        self._base = base
        self._parameters = dict(parameters)
        self._modules = tuple(modules)
        self._unreached = frozenset(unreached)

    def trainable(self) -> dict[str, nn.Parameter]:
        """Return the trained parameters by name."""
        return dict(self._parameters)

    def modules(self) -> Sequence[nn.Module]:
        """Return the modules that hold them."""
        return self._modules

    @contextlib.contextmanager
    def disabled(self) -> Iterator[None]:
        """Put the base's weights back for a while, read again from its directory (float32, freed afterwards).

        Raises:
            MachineError: E414, the base was made in memory, so that its weights are gone.
        """
        if not self._parameters:
            yield
            return
        original = self._original()
        kept = {name: parameter.data for name, parameter in self._parameters.items()}
        for name, parameter in self._parameters.items():
            parameter.data = original[name].to(parameter.device, parameter.dtype)
        del original
        try:
            yield
        finally:
            for name, parameter in self._parameters.items():
                parameter.data = kept[name]

    def merge(self) -> None:
        """Do nothing: the trained weights are the base's own."""

    def save(self, folder: Path, base_name: str) -> None:
        """Write the trained weights under their names in the model."""
        if self._parameters:
            # The recipe's name of the base, not the directory: equal weights are equal bytes wherever the project lies.
            metadata = {"format": "pt", "base": self._base.name, "adapter": self.kind}
            write_tensors(folder / self.file, self._parameters, metadata)

    def load(self, folder: Path) -> None:
        """Read what `save` wrote."""
        if self._parameters:
            read = read_tensors(folder / self.file)
            kept = {name: tensor for name, tensor in read.items() if name not in self._unreached}
            fill(self._parameters, kept, folder / self.file)

    def _original(self) -> dict[str, Tensor]:
        from metier.models.base import read_weights

        if self._base.path is None:
            raise MachineError(
                414,
                f"The untouched base cannot be shown: the adapter `{self.kind}` trains its weights in place, and the "
                "base has no directory to read them from",
                fix="load the base a second time",
            )
        return read_weights(self._base, set(self._parameters))
