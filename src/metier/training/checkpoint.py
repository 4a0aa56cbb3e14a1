"""Atomic checkpoints and exact resume.

    checkpoints/step-000200/
      (the policy's own files)   adapter or weights in float32, head, as Policy.save writes them
      optimizer.safetensors      moments and step counts, by parameter name and field
      state.json                 step, counters, digests, library versions
      COMPLETE.json              every file with size and SHA-256; written last

Order: temporary directory → fsync files → COMPLETE.json → fsync directory → rename → fsync parent → only then rotate.
All but the first is done in a thread while training goes on; there is never more than one on its way.
The loop seeds every random generator from (seed, step) and orders examples by the same pair, so no generator state
and no data cursor need to be kept: the step is both. A checkpoint without COMPLETE.json, or with a file that differs
from it, does not exist for a resume.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import threading
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
import transformers

from metier.core.errors import MachineError
from metier.core.project import digest_file, disk_errors, fsync_directory, now, read_json, write_json
from metier.models.policy import Policy
from metier.models.tensors import write_tensors
from metier.training.loop import State
from metier.training.optim import Optimizer

OPTIMIZER = "optimizer.safetensors"
COUNTERS = ("step", "tokens", "supervised", "examples", "slots", "seconds", "micro_batch_tokens")


def versions(device: torch.device) -> dict[str, str]:
    """Return what has to stay the same for a resume to be exact: libraries, threads, and the device by its name.

    On a CPU that is exact to the bit. A GPU's kernels (attention's backward pass, for one) may add in another order
    each time: there a resume goes on from the same state with the same rows and seeds, and the last bits may differ.
    """
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "numpy": np.__version__,
        "threads": str(torch.get_num_threads()),
        "device": _device_name(device),
        **({"cuda": str(torch.version.cuda)} if device.type == "cuda" else {}),
    }


def _device_name(device: torch.device) -> str:
    if device.type == "cpu":
        return f"cpu ({torch.backends.cpu.get_cpu_capability()})"  # kernels are chosen by what the CPU can do
    if device.type in ("cuda", "xpu"):
        return str(torch.get_device_module(device).get_device_name(device))
    return device.type


# ───────────────────────────────────────────────────────────────────────────── writing


class Writing:
    """A checkpoint whose bytes the system has: a thread brings them to the disk, seals and renames them.

    Args:
        final: where it will lie.
        temporary: where it lies; None: it was sealed before.
    """

    def __init__(self, final: Path, temporary: Path | None = None) -> None:
        self._final = final
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None
        if temporary is not None:
            name = f"checkpoint {final.name}"
            self._thread = threading.Thread(target=self._finish, args=(temporary,), name=name, daemon=True)
            self._thread.start()

    @property
    def done(self) -> bool:
        """Whether `wait` would return (or raise) at once."""
        return self._thread is None or not self._thread.is_alive()

    def wait(self) -> Path:
        """Return the sealed directory.

        Raises:
            MachineError: E420–E422, the disk; the checkpoints before are untouched.
        """
        if self._thread is not None:
            self._thread.join()
        if self._error is not None:
            raise self._error
        return self._final

    def _finish(self, temporary: Path) -> None:
        try:
            with disk_errors(self._final):
                try:
                    seal(temporary)
                    temporary.rename(self._final)
                except BaseException:
                    shutil.rmtree(temporary, ignore_errors=True)
                    raise
                fsync_directory(self._final.parent)
        except BaseException as error:  # it is raised where somebody waits
            self._error = error


def save(folder: Path, policy: Policy, state: State, *, digests: dict[str, str], figures: dict[str, float]) -> Path:
    """Write `folder/step-<n>` as `begin` does, and return it once it is sealed."""
    return begin(folder, policy, state, digests=digests, figures=figures).wait()


def begin(folder: Path, policy: Policy, state: State, *, digests: dict[str, str], figures: dict[str, float]) -> Writing:
    """Begin to write `folder/step-<n>` atomically; an existing verified one of the same step is kept.

    The tensors are handed to the system before this returns, so that the next step may change them; what takes long on
    a real disk (fsync, and the digests) goes on beside the training. No second copy of the weights is held.

    Args:
        digests: of dataset, base, tokens and the recipe's semantic keys; compared on resume.
        figures: the validation figures at this step.

    Raises:
        MachineError: E420–E422, the disk; the checkpoints before are untouched.
    """
    final = folder / f"step-{state.step:06d}"
    if final.exists() and not problems(final):
        return Writing(final)
    temporary = folder / f".step-{state.step:06d}.tmp"
    with disk_errors(final):
        if final.exists():
            shutil.rmtree(final)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            policy.save(temporary)
            write_tensors(temporary / OPTIMIZER, _optimizer_tensors(state.optimizer), {})
            write_json(temporary / "state.json", _state(state, versions(policy.device), digests, figures))
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    return Writing(final, temporary)


def seal(folder: Path) -> None:
    """Fsync every file of a directory and write COMPLETE.json, which vouches for them."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "COMPLETE.json")
    listed = []
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())
        listed.append(
            {"path": str(path.relative_to(folder)), "bytes": path.stat().st_size, "sha256": digest_file(path)}
        )
    write_json(folder / "COMPLETE.json", {"written": now(), "files": listed})
    fsync_directory(folder)


def rotate(folder: Path, *, keep: int, best: str | None, sealed: str | None = None) -> list[str]:
    """Delete old checkpoints, keeping the newest `keep` and the best; return the names deleted.

    Never deletes when no verified checkpoint would be left.

    Args:
        sealed: one that this process has just sealed: its digests need not be made again.
    """
    present = listing(folder)
    kept = {p.name for p in present[-keep:]} | ({best} if best else set())
    if sealed not in kept and not any(not problems(p) for p in present if p.name in kept):
        return []
    doomed = [p for p in present if p.name not in kept]
    with disk_errors(folder):
        for path in doomed:
            # COMPLETE.json goes first: a half-deleted checkpoint must not look whole.
            (path / "COMPLETE.json").unlink(missing_ok=True)
            shutil.rmtree(path)
    return [p.name for p in doomed]


# ───────────────────────────────────────────────────────────────────────────── reading


def listing(folder: Path) -> list[Path]:
    """Return the checkpoint directories, oldest step first, whether they verify or not."""
    if not folder.is_dir():
        return []
    found = [p for p in folder.iterdir() if re.fullmatch(r"step-\d{6,}", p.name) and p.is_dir()]
    return sorted(found, key=lambda p: int(p.name.removeprefix("step-")))


def problems(path: Path, only: Collection[str] = ()) -> list[str]:
    """Return what is wrong with a checkpoint; empty when every file is as COMPLETE.json says.

    Args:
        only: the files to look at; empty: all.
    """
    complete = path / "COMPLETE.json"
    if not complete.is_file():
        return ["COMPLETE.json is missing: the save did not finish"]
    try:
        listed = json.loads(complete.read_text(encoding="utf-8"))["files"]
        files = [(str(entry["path"]), int(entry["bytes"]), str(entry["sha256"])) for entry in listed]
    except (ValueError, KeyError, TypeError):
        return ["COMPLETE.json cannot be read"]
    found = []
    for name, size, digest in files:
        if only and name not in only:
            continue
        file = path / name
        if "\0" in name or not file.is_file():
            found.append(f"{name!r} is missing")
        elif file.stat().st_size != size:
            found.append(f"{name} has {file.stat().st_size} bytes instead of {size}")
        elif digest_file(file) != digest:
            found.append(f"{name} was altered: its SHA-256 differs")
    return found


def newest(folder: Path) -> tuple[Path | None, list[str]]:
    """Return the newest checkpoint that verifies, and a sentence about each newer one that does not."""
    notes: list[str] = []
    for path in reversed(listing(folder)):
        wrong = problems(path)
        if not wrong:
            return path, notes
        notes.append(f"checkpoint {path.name} is not used: {wrong[0]}")
    return None, notes


def restore(path: Path, policy: Policy, state: State) -> dict[str, Any]:
    """Put weights, optimiser and counters of a verified checkpoint into a freshly built policy and state.

    Returns:
        The whole of state.json.

    Raises:
        MachineError: E430, the checkpoint does not verify or names other parameters.
    """
    wrong = problems(path)
    if wrong:
        raise MachineError(
            430,
            f"The checkpoint cannot be used: {wrong[0]}",
            place=str(path),
            fix="metier runs resume RUN goes on from the newest checkpoint that verifies",
        )
    saved = read_json(path / "state.json")
    policy.restore(path)
    _restore_optimizer(state.optimizer, path / OPTIMIZER)
    for name in COUNTERS:
        setattr(state, name, saved[name])
    planned = state.planned_micro_batch_tokens
    if saved.get("planned_micro_batch_tokens", planned) != planned:
        state.micro_batch_tokens = planned  # the recipe asks for another size than before: what was found is void
    return saved


# ───────────────────────────────────────────────────────────────────────────── inside


def _state(state: State, under: dict[str, str], digests: dict[str, str], figures: dict[str, float]) -> dict[str, Any]:
    return {
        **{name: getattr(state, name) for name in COUNTERS},
        "planned_micro_batch_tokens": state.planned_micro_batch_tokens,
        "digests": digests,
        "figures": figures,
        "versions": under,
    }


def _optimizer_tensors(optimizer: Optimizer) -> dict[str, torch.Tensor]:
    return {f"{name}#{field}": value for name, fields in optimizer.state().items() for field, value in fields.items()}


def _restore_optimizer(optimizer: Optimizer, path: Path) -> None:
    tensors = safetensors.torch.load_file(path)
    saved: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        name, _, field = key.rpartition("#")
        saved.setdefault(name, {})[field] = tensor
    unknown = saved.keys() - optimizer.state().keys()
    if unknown:  # one without a state is no error: no gradient has reached it yet
        raise MachineError(
            430,
            "The checkpoint's optimiser names other parameters than this run trains",
            place=str(path),
            received=f"{len(unknown)} unknown",
            fix="metier runs resume RUN --fork starts a new run from the recipe",
        )
    optimizer.load(saved)
