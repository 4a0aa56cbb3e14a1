"""Tensors on disk: safetensors files, written one tensor at a time and read onto the CPU."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metier.core.errors import MachineError
from metier.core.project import disk_errors

if TYPE_CHECKING:
    import torch
    from torch import Tensor

DTYPES = {
    "torch.bool": "BOOL", "torch.uint8": "U8", "torch.int16": "I16", "torch.float16": "F16", "torch.bfloat16": "BF16",
    "torch.int32": "I32", "torch.float32": "F32", "torch.float64": "F64", "torch.int64": "I64",
}  # fmt: skip
"""The names of types in a safetensors file, in the library's order."""
ANOTHER_COPY = "copy the directory again, or name another checkpoint: metier runs show RUN lists them"


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file under a temporary name and rename it; bringing it to the disk is the caller's.

    The library's own writer wants the bytes of all tensors at once: from a GPU, a copy of every weight and both moments
    in the host's memory, at the worst moment for it to run out. Here one tensor is brought over, written and let go.
    The metadata is sorted, which the library leaves to chance: the same weights have the same SHA-256 in every process.
    Checkpoints and exports fsync all files of a directory together.

    Raises:
        MachineError: E420–E422, the disk is full or cannot be written.
    """
    import torch

    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        # As the library orders them: the widest types first keep every tensor aligned.
        widest = sorted(tensors, key=lambda name: (-list(DTYPES).index(str(tensors[name].dtype)), name))
        header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
        offset = 0
        for name in widest:
            tensor, end = tensors[name], offset + tensors[name].nbytes
            dtype = DTYPES[str(tensor.dtype)]
            header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [offset, end]}
            offset = end
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        text = text.ljust(-(-len(text) // 8) * 8)
        try:
            with temporary.open("wb") as file:
                file.write(len(text).to_bytes(8, "little") + text)
                for name in widest:
                    # No name for what is brought over: it would live until the next one is there.
                    file.write(tensors[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file onto the CPU.

    Raises:
        MachineError: E408, no such file, or it cannot be read.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except FileNotFoundError:
        raise MachineError(408, "The trained weights are missing", place=str(path), fix=ANOTHER_COPY) from None
    except (SafetensorError, OSError) as error:
        raise MachineError(
            408, "The trained weights cannot be read", place=str(path), received=str(error), fix=ANOTHER_COPY
        ) from error


def fill(parameters: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Copy tensors into parameters of the same names and shapes, all of them and no others.

    Raises:
        MachineError: E408, a name or a shape does not fit.
    """
    import torch

    missing = sorted(parameters.keys() - tensors.keys())
    extra = sorted(tensors.keys() - parameters.keys())
    shapes = sorted(
        name for name in parameters.keys() & tensors.keys() if parameters[name].shape != tensors[name].shape
    )
    for what, names in (("missing", missing), ("not the model's", extra), ("of another shape", shapes)):
        if names:
            raise MachineError(
                408,
                f"{len(names)} trained tensors are {what}",
                place=str(path),
                received=", ".join(names[:3]) + (" …" if len(names) > 3 else ""),
                expected="the tensors of this base with this adapter",
                fix="use the base and the adapter options that the file was trained with",
            )
    with torch.no_grad():
        for name, tensor in tensors.items():
            parameters[name].copy_(tensor)
