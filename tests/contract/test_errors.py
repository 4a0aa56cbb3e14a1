"""Every error that a user can meet says what to do next."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import metier

ROOT = Path(metier.__file__).parent
KINDS = {"ConfigError", "DataError", "MachineError", "GateError", "PermissionDenied"}
"""RowError stands apart: a bad row goes to quarantine, and E310 says what to do about it. A Bug is ours to mend."""


def made(path: Path) -> list[ast.Call]:
    """The places of a file that make an error, whether it is raised there or returned."""
    calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    return [c for c in calls if isinstance(c.func, ast.Name) and c.func.id in KINDS]


def next_step(call: ast.Call) -> ast.expr | None:
    return next((word.value for word in call.keywords if word.arg == "fix"), None)


@pytest.mark.parametrize(
    "path", [p for p in sorted(ROOT.rglob("*.py")) if made(p)], ids=lambda p: str(p.relative_to(ROOT))
)
def test_every_error_names_the_next_step(path: Path) -> None:
    without = [f"{path.name}:{call.lineno}" for call in made(path) if next_step(call) is None]
    empty = [
        f"{path.name}:{call.lineno}"
        for call in made(path)
        if isinstance(step := next_step(call), ast.Constant) and not str(step.value).strip()
    ]
    assert (without, empty) == ([], [])


def test_the_walk_meets_the_errors() -> None:
    assert sum(len(made(path)) for path in ROOT.rglob("*.py")) > 150
