"""The step `clean` beyond its sample: markup, broken encodings, and what happens without the package for them."""

from __future__ import annotations

from typing import Any

import pytest

from metier.core import extras
from metier.core.errors import MachineError
from metier.core.types import Conversation, Labelled, Message, Text, identify
from metier.data.steps import clean
from metier.data.steps.clean import Options


def cleaned(text: str, **options: Any) -> str:
    return clean.clean(text, Options(**options))


def test_markup_stays_unless_somebody_asks() -> None:
    assert cleaned("<p>one</p>") == "<p>one</p>"
    assert cleaned("<p>one</p><footer>two</footer>", html="strip") == "one\n\ntwo"
    assert cleaned("<p>one</p><footer>two</footer>", html="main") == "one"


def test_a_row_of_which_only_markup_is_left_is_dropped_with_its_reason() -> None:
    rows = [identify(Text(text="<script>x()</script>")), identify(Labelled(text="<b>a</b>", target="<b>"))]
    result = clean.run(rows, Options(html="strip"))
    assert result.dropped == [(rows[0].id, "nothing left after cleaning")]
    assert [(e.text, e.target) for e in result.examples] == [("a", "<b>")]  # type: ignore[union-attr]
    chat = identify(Conversation(messages=(Message("user", "hi"), Message("assistant", "<style>p {}</style>"))))
    assert clean.run([chat], Options(html="strip")).examples == []


def test_only_the_encoding_is_repaired() -> None:
    pytest.importorskip("ftfy", reason="pip install 'metier[curate]'")
    assert cleaned("cafÃ©, doesnâ€™t", repair_encoding=True) == "café, doesn’t"
    untouched = "“quotes” ﬁre ｗｉｄｅ &amp; Ã la mode\x1b[1m"
    kept = {"control_characters": False, "unicode": "keep", "whitespace": "keep"}
    assert cleaned(untouched, repair_encoding=True, **kept) == untouched
    once = cleaned("rÃ©sumÃ©\nnaïve", repair_encoding=True)
    assert once == "résumé\nnaïve"
    assert cleaned(once, repair_encoding=True) == once


def test_entities_that_hide_a_broken_encoding_are_repaired_too() -> None:
    pytest.importorskip("ftfy", reason="pip install 'metier[curate]'")
    assert cleaned("caf&Atilde;&copy;", html="strip", repair_encoding=True) == "café"


def test_without_the_package_the_error_comes_before_the_first_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Any:
        raise ModuleNotFoundError(name=name)

    clean._repairs.cache_clear()
    monkeypatch.setattr(extras.importlib, "import_module", absent)
    with pytest.raises(MachineError) as caught:
        clean.run([], Options(repair_encoding=True))
    assert caught.value.code == "E450" and "ftfy" in caught.value.what
    assert cleaned("cafÃ©") == "cafÃ©"
