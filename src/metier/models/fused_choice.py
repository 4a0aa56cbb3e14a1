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
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from metier.core.errors import MetierError
from metier.core.extras import cache_dir
from metier.core.project import digest_file, digest_json, read_json, write_json
from metier.models.fused import Kernel, Unfit
from metier.models.fused_proof import TILES
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
CRASHES = (signal.SIGILL, signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE)
PACKAGE = Path(__file__).parents[1]


def compiler() -> str | None:
    """Return the C++ compiler that CXX names, or one that is here; None where there is none."""
    names = [os.environ["CXX"]] if os.environ.get("CXX") else COMPILERS
    return next((found for name in names if (found := shutil.which(name))), None)


def no_compiler() -> str:
    """Return why there is no C++ compiler; empty where there is one."""
    if compiler() is not None:
        return ""
    said = f"CXX={os.environ['CXX']}" if os.environ.get("CXX") else ", ".join(COMPILERS)
    return f"there is no C++ compiler ({said})"


def choose(device: str, dtype: str, pinned: str | None = None) -> tuple[Kernel | None, Choice]:
    """Return the kernel, or None for PyTorch's attention, and the choice with its reason.

    Args:
        pinned: the value with which the run began.
    """
    if pinned == PYTORCH:
        return None, Choice(PYTORCH, f"{PYTORCH} {BEGAN_WITH}")
    try:
        if device.partition(":")[0] != "cpu" or dtype != "bfloat16":
            raise Unfit("the fused kernel is for bfloat16 on a CPU")
        library, verdict = _built()
        if "unfit" in verdict:
            raise Unfit(str(verdict["unfit"]))
        value = pinned or f"{FUSED}{verdict['tile']}"
        if value not in {f"{FUSED}{tile}" for tile in TILES}:
            raise Unfit(f"there are no tiles of {value}")
        kernel = Kernel.load(library, int(value.removeprefix(FUSED)))
    except Unfit as error:
        began = f", although the run began with {pinned}" if pinned else ""
        return None, Choice(PYTORCH, f"{PYTORCH} because {error}{began}")
    if pinned:
        return kernel, Choice(value, f"{value} {BEGAN_WITH}")
    long, short = verdict["gains"]
    return kernel, Choice(
        value, f"{value} because it ran {long:.1f}× as fast as PyTorch's (64 positions: {short:.1f}×)"
    )


@functools.lru_cache(maxsize=4)
def _built() -> tuple[Path, dict[str, Any]]:
    """Return the library and the verdict on it: `tile`, `gains` and `digest`, or why it is `unfit`.

    What was built and judged is kept beside it; why it could not come so far, in this process alone.
    """
    try:
        folder = _folder()
        library, told = folder / "attention.so", folder / "verdict.json"
        verdict = _kept(library, told)
        if verdict is None:
            with tempfile.TemporaryDirectory(dir=folder) as work:
                made = Path(work) / library.name
                _build(made)
                verdict = {**_judge(made), "digest": digest_file(made)}
                made.replace(library)
            write_json(told, verdict)
        return library, verdict
    except Unfit as error:
        return Path(), {"unfit": str(error)}
    except (MetierError, OSError) as error:
        return Path(), {"unfit": f"the fused kernel could not be kept ({error})"}


def _folder() -> Path:
    """Return the folder of this machine's kernel, the user's own: what lies there will be run."""
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "AMD64"):
        raise Unfit("the fused kernel is for x86-64 under Linux")
    if why := no_compiler():
        raise Unfit(why)
    folder = cache_dir() / f"attention-{_key(str(compiler()))}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    known = folder.stat()
    if known.st_uid != os.getuid() or known.st_mode & 0o022:
        raise Unfit(f"others may write to {folder}")
    return folder


def _key(cxx: str) -> str:
    """What the machine code and its speed hang on: source, flags, compiler, PyTorch and what the processor can do."""
    try:
        asked = subprocess.run([cxx, "--version"], capture_output=True, text=True, timeout=BUILD_SECONDS, check=False)
        info = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unfit(f"the C++ compiler did not answer ({error})") from None
    cpu = [next((line for line in info if line.startswith(name)), "") for name in ("model name", "flags")]
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "")
    source = SOURCE.read_text(encoding="utf-8")
    version = asked.stdout.partition("\n")[0]
    return digest_json([source, FLAGS, version, torch.__version__, torch.__file__, cpu, limit])[:16]


def _kept(library: Path, told: Path) -> dict[str, Any] | None:
    """Return the verdict that is kept; None where there is none, or none on the library that lies there."""
    try:
        verdict = read_json(told)
        same = verdict["digest"] == digest_file(library)
    except (MetierError, OSError, KeyError):
        return None
    return verdict if same and ("unfit" in verdict or {"tile", "gains"} <= verdict.keys()) else None


def _build(to: Path) -> None:
    libraries = Path(torch.__file__).parent / "lib"
    linked = ("-L", str(libraries), "-ltorch_cpu", f"-Wl,-rpath,{libraries}")
    command = [str(compiler()), *FLAGS, str(SOURCE), "-o", str(to), *linked]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unfit(f"the C++ compiler did not answer ({error})") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no reason given"]
        why = next((line for line in lines if "error" in line), lines[-1])
        raise Unfit(f"the C++ compiler refused the fused kernel ({why})")


def _judge(library: Path) -> dict[str, Any]:
    """Return the verdict of a process of its own, which a wrong instruction may end.

    Raises:
        Unfit: it ended for another reason, which need not be there the next time.
    """
    code = (
        "import sys; sys.path.insert(0, sys.argv[2]); from metier.models.fused_proof import prove; prove(sys.argv[1])"
    )
    command = [sys.executable, "-P", "-c", code, str(library), str(PACKAGE.parent)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PROOF_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unfit(f"the proof of the fused kernel did not end ({error})") from None
    if done.returncode in {-number for number in CRASHES}:
        return {"unfit": f"the proof of the fused kernel ended with signal {-done.returncode}"}
    try:
        verdict = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise Unfit(f"the proof of the fused kernel failed ({last})") from None
    return dict(verdict)
