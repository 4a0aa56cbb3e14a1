"""Whether attention is computed by our own kernel on this machine: built once, proved, timed, kept with its verdict.

It is for bfloat16 on x86-64 under Linux and needs a C++ compiler. What is built is proved in a process of its own
(models/fused_proof.py), which a wrong instruction may end. Where it is wanting, attention is PyTorch's, and the reason
is told.
"""

from __future__ import annotations

import functools
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from metier.core.errors import MetierError
from metier.core.extras import cache_dir
from metier.core.project import digest_json, read_json, write_json
from metier.models.fused import Kernel, Unfit
from metier.models.probe import BEGAN_WITH, Choice

KEY = "attention_kernel"
PYTORCH, FUSED = "pytorch", "fused-"
"""The choices: none of our own, or ours with the width of its tiles."""
COMPILERS = ("g++", "clang++", "c++")
SOURCE = Path(__file__).parent / "assets" / "attention.cpp"
FLAGS = (
    *("-O3", "-march=native", "-std=c++17", "-fopenmp", "-shared", "-fPIC"),
    *("-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math"),
)
BUILD_SECONDS, PROOF_SECONDS = 120, 60


def compiler() -> str | None:
    """Return the C++ compiler that CXX names, or one that is here; None where there is none."""
    names = [os.environ["CXX"]] if os.environ.get("CXX") else COMPILERS
    return next((found for name in names if (found := shutil.which(name))), None)


def choose(device: str, dtype: str, pinned: str | None = None) -> tuple[Kernel | None, Choice]:
    """Return the kernel, or None for PyTorch's attention, and the choice with its reason.

    Args:
        pinned: the value with which the run began.
    """
    began = f", although the run began with {pinned}" if pinned not in (None, PYTORCH) else ""
    if pinned == PYTORCH:
        return None, Choice(PYTORCH, f"{PYTORCH} {BEGAN_WITH}")
    try:
        if device != "cpu" or dtype != "bfloat16":
            raise Unfit("the fused kernel is for bfloat16 on a CPU")
        path, verdict = _built()
        if "unfit" in verdict:
            raise Unfit(str(verdict["unfit"]))
        tile = int(pinned.removeprefix(FUSED) if pinned else verdict["tile"])
        kernel = Kernel.load(path, tile)
    except Unfit as error:
        return None, Choice(PYTORCH, f"{PYTORCH} because {error}{began}")
    if pinned:
        return kernel, Choice(pinned, f"{pinned} {BEGAN_WITH}")
    long, short = verdict["gains"]
    value = f"{FUSED}{tile}"
    told = f"{value} because it ran {long:.1f}× as fast as PyTorch's (64 positions: {short:.1f}×)"
    return kernel, Choice(value, told)


@functools.lru_cache(maxsize=4)
def _built() -> tuple[Path, dict[str, Any]]:
    """Return the library and the verdict on it, building and proving where this machine has not yet."""
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "AMD64"):
        raise Unfit("the fused kernel is for x86-64 under Linux")
    cxx = compiler()
    if cxx is None:
        raise Unfit(f"there is no C++ compiler ({', '.join(COMPILERS)})")
    folder = cache_dir() / f"attention-{_key(cxx)}"
    library, told = folder / "attention.so", folder / "verdict.json"
    try:
        return library, read_json(told)
    except (MetierError, OSError):
        pass
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as work:
            made = Path(work) / library.name
            verdict = _build(cxx, made) or _judge(made)
            if made.exists():
                made.replace(library)
        write_json(told, verdict)
    except (MetierError, OSError) as error:
        raise Unfit(f"the fused kernel could not be kept ({error})") from None
    return library, verdict


def _key(cxx: str) -> str:
    """What the machine code hangs on: source, flags, compiler, PyTorch and what the processor can do."""
    try:
        asked = subprocess.run([cxx, "--version"], capture_output=True, text=True, timeout=BUILD_SECONDS, check=False)
        info = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unfit(f"the C++ compiler did not answer ({error})") from None
    cpu = [next((line for line in info if line.startswith(name)), "") for name in ("model name", "flags")]
    return digest_json(
        [SOURCE.read_text(), FLAGS, asked.stdout.partition("\n")[0], torch.__version__, torch.__file__, cpu]
    )[:16]


def _build(cxx: str, to: Path) -> dict[str, Any]:
    """Compile; return a verdict where the compiler refuses."""
    libraries = Path(torch.__file__).parent / "lib"
    linked = ("-L", str(libraries), "-ltorch_cpu", f"-Wl,-rpath,{libraries}")
    command = [cxx, *FLAGS, str(SOURCE), "-o", str(to), *linked]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unfit(f"the C++ compiler did not answer ({error})") from None
    if not done.returncode:
        return {}
    lines = done.stderr.strip().splitlines() or ["no reason given"]
    why = next((line for line in lines if "error" in line), lines[-1])
    return {"unfit": f"the C++ compiler refused the fused kernel ({why})"}


def _judge(library: Path) -> dict[str, Any]:
    """Return the verdict of a process of its own, which a wrong instruction may end."""
    code = "import sys; from metier.models.fused_proof import prove; prove(sys.argv[1])"
    command = [sys.executable, "-c", code, str(library)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PROOF_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unfit(f"the proof of the fused kernel did not end ({error})") from None  # a busy machine: not kept
    if done.returncode:
        return {"unfit": f"the proof of the fused kernel ended with {done.returncode}"}
    verdict: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return verdict
