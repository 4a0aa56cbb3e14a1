"""Error codes are stable names: one meaning each, raised by the class of their first digit."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import metier

DIGITS = {"Bug": 1, "ConfigError": 2, "DataError": 3, "MachineError": 4, "GateError": 5, "PermissionDenied": 6}


def raised() -> dict[int, set[tuple[str, str]]]:
    """Return code → (class, first words of its sentence) over the whole package."""
    found: dict[int, set[tuple[str, str]]] = defaultdict(set)
    for path in Path(metier.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.func.id not in DIGITS:
                continue
            number = node.args[0] if node.args else None
            if isinstance(number, ast.Constant) and isinstance(number.value, int):
                room = path.relative_to(Path(metier.__file__).parent).parts[0]
                found[number.value].add((node.func.id, room))
    return found


def test_every_code_belongs_to_its_class() -> None:
    codes = raised()
    assert len(codes) > 60
    for number, uses in codes.items():
        assert {DIGITS[kind] for kind, _ in uses} == {number // 100}, number


def test_no_code_is_shared_by_two_rooms_for_two_meanings() -> None:
    # These say the same thing wherever they are raised.
    shared = {201, 204, 207, 210, 230, 234, 237, 254, 305, 354, 420, 421, 422, 430, 450, 454}
    clashes = {n: sorted({room for _, room in uses}) for n, uses in raised().items() if len({r for _, r in uses}) > 1}
    assert {n: rooms for n, rooms in clashes.items() if n not in shared} == {}
