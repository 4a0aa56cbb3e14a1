"""Choose device, precision and threads by measuring, and say why.

Every function returns a `Choice`: the value and its reason. The reasons go into the run; the values are pinned for
resume. Only the precision is timed: bf16 matrix products are several times faster than fp32 on CPUs with AVX512-bf16
or AMX, and up to hundreds of times slower on CPUs that emulate them, so no table of models would be right for long.
Threads are counted, not timed: on a shared machine a one-second timing changes from run to run, and a run's result
depends on its thread count.
"""

from __future__ import annotations

import contextlib
import math
import os
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metier.core.errors import ConfigError, MachineError, MetierError
from metier.core.extras import cache_dir
from metier.core.project import digest_json, read_json, write_json

if TYPE_CHECKING:
    import torch

WORTHWHILE = 1.3
"""bf16 must win a matrix product by this factor: the other operations of a step gain less, and precision is lost."""
BUDGET_SECONDS = 0.4
BEGAN_WITH = "because the run began with it"
"""How the reason of a pinned choice ends."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A value that Metier chose, and why: `reason` reads `<value> because …`."""

    value: str
    reason: str


def choose_device(wanted: str = "auto") -> Choice:
    """Return the device to compute on: `cuda`, `xpu`, `mps` or `cpu`, in that order of preference.

    Args:
        wanted: `auto`, or one of these, the second of its kind as `cuda:1`.

    Raises:
        MachineError: E410, the device that was asked for is not there.
    """
    import torch

    present = {
        "cuda": torch.cuda.is_available(),
        "xpu": hasattr(torch, "xpu") and torch.xpu.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if wanted != "auto":
        counts = {name: _count(name) for name, there in present.items() if there}
        kind, colon, index = wanted.partition(":")
        if kind not in counts or (colon and index not in map(str, range(counts[kind]))):
            raise MachineError(
                410,
                "This device is not available to PyTorch",
                received=f"model.device: {wanted}",
                expected=", ".join(name if n == 1 else f"{name} (0 to {n - 1})" for name, n in counts.items()),
                fix="model.device=auto",
            )
        return Choice(wanted, f"{wanted} because the recipe says so")
    value = next(name for name, there in present.items() if there)
    why = "no accelerator is visible to PyTorch" if value == "cpu" else "it is the fastest device PyTorch sees"
    return Choice(value, f"{value} because {why}")


def _count(kind: str) -> int:
    """How many devices of a kind that is there."""
    import torch

    return int({"cuda": torch.cuda, "xpu": torch.xpu}[kind].device_count()) if kind in ("cuda", "xpu") else 1


def choose_threads() -> Choice:
    """Return the number of CPU threads: PyTorch's own, capped by the CPU affinity and the container's quota."""
    import torch

    limits = {"PyTorch's default": torch.get_num_threads(), "the CPU affinity": _affinity()}
    quota = _container_quota()
    if quota is not None:
        limits["the container's CPU quota"] = quota
    why = min(limits, key=lambda name: limits[name])
    return Choice(str(limits[why]), f"{limits[why]} because {why} allows that many")


def choose_dtype(wanted: str, device: str) -> Choice:
    """Return `float32` or `bfloat16` for the computation; `auto` asks the device, and on a CPU measures it.

    Raises:
        ConfigError: E262, a precision that does not exist here.
    """
    if wanted not in ("auto", "float32", "bfloat16"):
        raise ConfigError(
            262,
            "There is no such precision",
            received=wanted,
            expected="auto, float32, bfloat16",
            fix="model.dtype=auto",
        )
    if wanted != "auto":
        return Choice(wanted, f"{wanted} because the recipe says so")
    import torch

    kind = device.partition(":")[0]
    if kind == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        value, why = ("bfloat16", "the GPU computes it natively") if native else ("float32", "the GPU has no bfloat16")
        return Choice(value, f"{value} because {why}")
    if kind == "xpu":
        return Choice("bfloat16", "bfloat16 because the GPU computes it natively")
    if kind == "mps":
        return Choice("float32", "float32 because bfloat16 on mps is incomplete")
    gain = _remembered_gain()
    value = "bfloat16" if gain >= WORTHWHILE else "float32"
    told = f"{gain:.1f}× faster" if gain >= 1 else f"{1 / gain:.1f}× slower"
    return Choice(value, f"{value} because a matmul probe ran {told} in bfloat16 than in float32")


def free_memory_bytes(root: Path = Path("/")) -> int:
    """Return the bytes of the system's memory that this process may hold, what it holds already included.

    The least of what the system has free and of what each control group above the process still grants: a container's
    limit is in no other file. Pages of files that the kernel would drop count as free in both.

    Args:
        root: the folder that stands for `/`.
    """
    free = _field(root / "proc/meminfo", "MemAvailable:")
    if free is None:  # not Linux: nothing says what is free
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    own = _field(root / "proc/self/status", "RssAnon:") or 0
    return max(0, min([free * 1024, *_granted(root)])) + own * 1024


def measure_gain() -> float:
    """Return how many times faster a square matrix product is in bf16 than in fp32 on this CPU, within a second.

    The size grows while both precisions stay quick, so that a CPU that emulates bf16 is found out in milliseconds.
    """
    import torch

    gain, started = 1.0, time.perf_counter()
    for size in (64, 256, 1024):
        slow = _best_seconds(size, torch.float32)
        fast = _best_seconds(size, torch.bfloat16)
        gain = slow / fast
        spent = time.perf_counter() - started
        # The next size costs 64 times as much; stop when that cannot fit.
        if spent > BUDGET_SECONDS or max(slow, fast) * 64 * 4 > BUDGET_SECONDS:
            break
    return gain


def _best_seconds(size: int, dtype: torch.dtype, repeats: int = 4) -> float:
    """Return seconds of CPU time of one square product on one thread: wall time swings on a shared machine."""
    import torch

    generator = torch.Generator().manual_seed(0)
    left = torch.randn(size, size, generator=generator).to(dtype)
    threads, best = torch.get_num_threads(), math.inf
    torch.set_num_threads(1)
    try:
        for _ in range(repeats):
            started = time.thread_time()
            torch.mm(left, left)
            best = min(best, time.thread_time() - started)
            if best > BUDGET_SECONDS / 2:
                break
    finally:
        torch.set_num_threads(threads)
    return max(best, 1e-9)


def _remembered_gain() -> float:
    try:
        return float(recall("probe")["bfloat16_gain"])
    except (KeyError, TypeError, ValueError):
        gain = measure_gain()  # nothing kept, or something that is of no use: measure again
    remember("probe", {"bfloat16_gain": gain})
    return gain


def recall(name: str) -> dict[str, Any]:
    """Return what `remember` kept under a name: per user, machine, thread count and PyTorch version; else nothing."""
    try:
        found = read_json(_kept(name))
    except (MetierError, OSError):
        return {}
    return {key: value for key, value in found.items() if key not in ("schema_version", "cpu", "torch")}


def remember(name: str, values: dict[str, Any]) -> None:
    """Keep a measurement of this machine for the next process."""
    import torch

    # The cache only saves a second: a home that cannot be written is no reason to stop.
    with contextlib.suppress(MachineError, OSError):
        write_json(_kept(name), {**values, "cpu": _cpu_name(), "torch": torch.__version__})


def _kept(name: str) -> Path:
    """Where a measurement lies."""
    import torch

    key = digest_json([platform.machine(), _cpu_name(), torch.__version__, torch.get_num_threads()])[:16]
    return cache_dir() / f"{name}-{key}.json"


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(errors="replace").splitlines():
            if line.startswith(("model name", "Model", "CPU part")):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _affinity() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _container_quota() -> int | None:
    """CPUs that the control group grants, rounded up; None where it sets no limit."""
    file = Path("/sys/fs/cgroup/cpu.max")
    if not file.exists():
        return None
    fields = file.read_text().split()
    if len(fields) != 2 or fields[0] == "max":
        return None
    return max(1, math.ceil(int(fields[0]) / int(fields[1])))


def _granted(root: Path) -> Iterator[int]:
    """Yield the bytes that each control group of this process still grants, of version 2 and of version 1."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            top, limit, used, droppable = root / "sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            top = root / "sys/fs/cgroup/memory"
            limit, used, droppable = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
        else:
            continue
        inner = top / path.strip("/")
        # A group above may be the narrower one; inside a container the top is its own group, whatever the path says.
        for group in (inner, *inner.parents):
            with contextlib.suppress(OSError, ValueError):  # no such file, or `max`: no limit here
                held = int((group / used).read_text()) - (_field(group / "memory.stat", droppable) or 0)
                yield int((group / limit).read_text()) - held
            if group == top:
                break


def _field(file: Path, name: str) -> int | None:
    """Return the number behind a name in a file of the kernel; None where there is no such file or name."""
    try:
        lines = file.read_text(errors="replace").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.split()[:1] == [name]), None)
