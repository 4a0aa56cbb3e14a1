"""The files of trained weights: the same weights have the same SHA-256, whatever process writes them."""

from __future__ import annotations

import errno
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from metier.core.errors import MachineError
from metier.core.project import digest_file
from metier.models.tensors import DTYPES, read_tensors, write_tensors

WRITE = """
import sys, torch
from pathlib import Path
from metier.models.tensors import write_tensors
metadata = {"format": "pt", "adapter": "lora", "base": "Basis/ä", "head": "no", "kind": "x"}
write_tensors(Path(sys.argv[1]), {"b": torch.arange(6.0).reshape(2, 3), "a": torch.ones(3)}, metadata)
"""


def test_the_same_tensors_give_the_same_bytes(tmp_path: Path) -> None:
    for number in range(2):
        subprocess.run([sys.executable, "-c", WRITE, str(tmp_path / f"{number}.safetensors")], check=True)
    metadata = {"kind": "x", "head": "no", "base": "Basis/ä", "adapter": "lora", "format": "pt"}
    tensors = {"a": torch.ones(3), "b": torch.arange(6.0).reshape(2, 3)}
    for number in range(2, 9):
        write_tensors(tmp_path / f"{number}.safetensors", tensors, metadata)
    files = sorted(tmp_path.iterdir())
    assert len({digest_file(file) for file in files}) == 1
    back = read_tensors(files[0])
    assert all(torch.equal(back[name], tensors[name]) for name in tensors)
    with safe_open(files[0], "pt") as opened:
        assert opened.metadata() == metadata


@pytest.mark.parametrize("metadata", [{}, {"format": "pt"}])
def test_the_file_is_the_one_that_the_library_writes(tmp_path: Path, metadata: dict[str, str]) -> None:
    numbers = torch.arange(12).reshape(3, 4)
    tensors = {
        **{f"{name}#ä": numbers.to(getattr(torch, name.removeprefix("torch."))) for name in DTYPES},
        "weight.a": torch.randn(5, 7), "weight.B": torch.randn(3), "one": torch.tensor(7.0), "none": torch.zeros(0, 4),
        "turned": torch.randn(4, 6).T, "trained": torch.nn.Parameter(torch.randn(2, 2)),
    }  # fmt: skip
    write_tensors(tmp_path / "ours", tensors, metadata)
    theirs = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    save_file(theirs, tmp_path / "theirs", metadata or None)
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ours", "theirs"]


def test_no_two_tensors_are_on_the_host_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a GPU each is a copy: of all weights and moments together, 12 bytes per trained weight."""
    copies: list[weakref.ref[torch.Tensor]] = []
    alive = []

    def bring(tensor: torch.Tensor) -> torch.Tensor:
        copy = tensor.clone()
        alive.append(sum(ref() is not None for ref in copies))
        copies.append(weakref.ref(copy))
        return copy

    monkeypatch.setattr(torch.Tensor, "cpu", bring)
    write_tensors(tmp_path / "x.safetensors", {str(i): torch.ones(64) for i in range(9)}, {})
    assert alive == [0] * 9, "how many were still there when the next one came"


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(tensor: torch.Tensor) -> torch.Tensor:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch.Tensor, "cpu", full)
    with pytest.raises(MachineError, match="E420"):
        write_tensors(tmp_path / "x.safetensors", {"a": torch.ones(3)}, {})
    assert not list(tmp_path.iterdir())
