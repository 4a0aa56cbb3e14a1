from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import Field

from metier.core.catalog import PACKAGES, Catalog, Options, catalog, type_of
from metier.core.errors import ConfigError

_PLUGIN = '''
"""A {name}."""
from pydantic import Field
from metier.core.catalog import Options as Base
summary = "one {name}"
class Options(Base):
    rank: int = Field(8, ge=1, description="How wide.")
'''


@pytest.fixture
def kinds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Catalog:
    folder = tmp_path / "kinds_for_test"
    folder.mkdir()
    for name in ("alpha", "beta"):
        (folder / f"{name}.py").write_text(_PLUGIN.format(name=name))
    (folder / "__init__.py").write_text("")
    (folder / "_shared.py").write_text("raise RuntimeError")
    monkeypatch.syspath_prepend(str(tmp_path))
    return Catalog("kinds", "kinds_for_test")


def test_a_file_is_a_kind_and_a_leading_underscore_hides_it(kinds: Catalog) -> None:
    assert kinds.names() == ["alpha", "beta"]
    assert not any(name.startswith("kinds_for_test.") for name in sys.modules)


def test_a_new_file_is_a_new_kind(kinds: Catalog, tmp_path: Path) -> None:
    (tmp_path / "kinds_for_test" / "gamma.py").write_text(_PLUGIN.format(name="gamma"))
    assert kinds.summary("gamma") == "one gamma"


def test_a_misspelt_kind_names_the_nearest(kinds: Catalog) -> None:
    with pytest.raises(ConfigError) as caught:
        kinds.get("alhpa", place="r.yaml:2")
    assert (caught.value.code, caught.value.place, caught.value.fix) == ("E210", "r.yaml:2", "Did you mean `alpha`?")


def test_options_are_filled_and_checked(kinds: Catalog) -> None:
    assert kinds.options("alpha", {"rank": 4}).rank == 4
    for values, key in (({"rnak": 4}, "rnak"), ({"rank": 0}, "rank"), ({"rank": "wide"}, "rank")):
        with pytest.raises(ConfigError, match=f"E211 `{key}`"):
            kinds.options("alpha", values)


def test_a_misspelt_option_names_the_nearest(kinds: Catalog) -> None:
    with pytest.raises(ConfigError) as caught:
        kinds.options("alpha", {"rnak": 4})
    assert caught.value.fix == "Did you mean `rank`?"


def test_an_unknown_catalog_names_the_nearest() -> None:
    with pytest.raises(ConfigError) as caught:
        catalog("adapter")
    assert caught.value.fix == "Did you mean `adapters`?"


def test_listing_every_catalog_imports_nothing_heavy() -> None:
    code = (
        "import sys; from metier.core.catalog import PACKAGES, catalog\n"
        "for n in PACKAGES:\n"
        "    for k in catalog(n).names(): catalog(n).get(k).Options\n"
        "print([m for m in ('torch', 'transformers', 'sklearn', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert "methods" in PACKAGES


class _Typed(Options):
    a: int = Field(1, ge=1, le=9)
    b: float | None = Field(None, gt=0)
    c: list[str] = Field(default_factory=list)
    d: bool = True
    e: dict[str, int] = Field(default_factory=dict)


def test_types_are_said_in_words() -> None:
    schema = _Typed.model_json_schema()
    assert {name: type_of(info) for name, info in schema["properties"].items()} == {
        "a": "int ≥ 1, ≤ 9",
        "b": "float > 0 | null",
        "c": "list of text",
        "d": "true | false",
        "e": "mapping",
    }
