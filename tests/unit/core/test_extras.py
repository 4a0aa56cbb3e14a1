from __future__ import annotations

import re
from pathlib import Path

import pytest

import metier
from metier.core.errors import MachineError
from metier.core.extras import ENVIRONMENT, extras, installed, need, user_dir


def test_an_installed_package_is_returned() -> None:
    import json

    assert need("json", "test this") is json


def test_a_missing_package_says_why_and_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MachineError) as caught:
        need("no_such_package_at_all", "read a hub data set")
    assert caught.value.code == "E450"
    assert "needed to read a hub data set" in caught.value.what
    assert caught.value.fix == "pip install no_such_package_at_all"
    monkeypatch.setattr("metier.core.extras.extras", lambda: {"hub": ["no-such-package"]})
    with pytest.raises(MachineError) as caught:
        need("no_such_package", "x")
    assert caught.value.fix == "pip install 'metier[hub]'"


def test_a_package_is_installed_by_another_name_than_it_is_imported_by(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metier.core.extras._DISTRIBUTIONS", {"no_such_package": "other-name", "json5x": "pydantic"})
    monkeypatch.setattr("metier.core.extras.extras", lambda: {"curate": ["other-name"]})
    with pytest.raises(MachineError) as caught:
        need("no_such_package", "x")
    assert caught.value.fix == "pip install 'metier[curate]'"
    assert installed("json5x") == installed("pydantic")


def test_a_package_that_is_there_and_broken_is_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_package.py").write_text("import a_dependency_that_is_gone\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="a_dependency_that_is_gone"):
        need("broken_package", "x")


def test_extras_come_from_the_packages_own_metadata() -> None:
    assert extras()["peft"] == ["peft"]
    assert installed("pydantic") is not None
    assert installed("no-such-package-at-all") is None


@pytest.mark.parametrize("place", ["file", "file/below", "~no-such-user/metier"])
def test_own_folders_that_cannot_be_made(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("METIER_STATE_DIR", place if place.startswith("~") else str(tmp_path / place))
    with pytest.raises(MachineError, match="E421") as refused:
        user_dir("state")
    assert "METIER_STATE_DIR" in refused.value.fix


def test_own_folders_follow_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METIER_STATE_DIR", str(tmp_path / "a"))
    assert user_dir("state") == tmp_path / "a"
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o700
    monkeypatch.delenv("METIER_STATE_DIR")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "x"))
    assert user_dir("state") == tmp_path / "x" / "metier"


def test_every_variable_that_is_read_is_in_the_one_list() -> None:
    """`environ` with a literal name, anywhere in the package."""
    pattern = re.compile(r"""environ(?:\.get\(|\[)\s*["'](\w+)["']|["'](\w+)["'] (?:not )?in os\.environ""")
    read = {
        a or b for path in Path(metier.__path__[0]).rglob("*.py") for a, b in pattern.findall(path.read_text("utf-8"))
    }
    assert read - {"TERM"} <= set(ENVIRONMENT)
