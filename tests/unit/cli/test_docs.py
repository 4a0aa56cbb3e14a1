from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def test_the_reference_pages_are_current() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "docs.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_every_environment_variable_is_documented() -> None:
    from metier.core.extras import ENVIRONMENT

    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert [name for name in ENVIRONMENT if name not in page] == []
