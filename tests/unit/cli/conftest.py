from __future__ import annotations

import pytest

from metier.cli.show import Show


@pytest.fixture(autouse=True)
def _a_command_line_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a command line found out about its project is not there for the next one."""
    monkeypatch.setattr(Show, "elsewhere", None)
