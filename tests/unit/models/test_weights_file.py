"""The files of trained weights: the same weights have the same SHA-256, whatever process writes them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch
from safetensors import safe_open

from metier.core.project import digest_file
from metier.models.adapters._weights import read_tensors, write_tensors

WRITE = """
import sys, torch
from pathlib import Path
from metier.models.adapters._weights import write_tensors
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
