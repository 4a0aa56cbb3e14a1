"""A name is found however it is written and whatever sign stands beside it, and nowhere else."""

from __future__ import annotations

import json
import unicodedata

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from metier.core.needles import Needle, composed, unescaped

NAME = "Anna Kowalska"
ANNA = Needle.of(NAME, exact=False)
SIGNS = [
    *"'\"()[]{}<>.,;:!?/\\|@#$%^&*+=~`-_",
    *"’‘“”„«»‹›—–‐‑…·•†‡§¶©®™°¿¡‚′″※",  # Latin
    *"、。「」『』【】〈〉《》・！？，：；（）",  # East Asian
    *"،؛؟٪٫٬﴾﴿",  # Arabic
    *"।॥॰",  # Devanagari
    *"׀־׳״",  # Hebrew
    *"՚՛՜՝՞՟։֊",  # Armenian
    *"፡።፣፤፥፦፧፨",  # Ethiopic
    *"᠀᠁᠂᠃᠄᠅",  # Mongolian
    *"·;᾽΄ʼ",  # Greek, the apostrophe letter
    *"\u00a0\u1680\u2002\u2009\u200b\u2028\u202f\u3000\ufeff\u00ad\n\t\r",  # spaces
    *"€£₽₿½²³¹①❤😀",
    "❤\ufe0f",  # a heart in colour: the selector is a mark
]


def seen(text: str, needle: Needle = ANNA) -> bool:
    return needle.stands_in(text.encode())


@pytest.mark.parametrize("sign", SIGNS)
def test_a_sign_of_any_script_ends_a_word(sign: str) -> None:
    for text in (f"{sign}{NAME}{sign}", f"of{sign}{NAME}", f"{NAME}{sign}said", f"it was {NAME}{sign}s"):
        assert seen(text), text
        for written in (json.dumps({"x": text}), json.dumps({"x": text}, ensure_ascii=False)):
            assert seen(written), written
        assert seen(json.dumps({"x": json.dumps(text)})), "JSON within JSON"


@given(st.characters(categories=["P", "S", "Z", "Cc", "Cf", "No", "Lm"]), st.booleans())
def test_whatever_is_no_letter_ends_a_word(sign: str, ascii_only: bool) -> None:
    assert seen(json.dumps({"x": f"a{sign}{NAME}{sign}b"}, ensure_ascii=ascii_only))


@given(st.characters(categories=["Lu", "Ll", "Nd"], max_codepoint=0x0DFF), st.booleans())
def test_a_letter_or_digit_beside_it_makes_it_another_word(letter: str, ascii_only: bool) -> None:
    assert not seen(json.dumps(f"{letter}{NAME}", ensure_ascii=ascii_only))
    assert not seen(json.dumps(f"{NAME}{letter}", ensure_ascii=ascii_only))
    assert not seen(f"{NAME}\u0301"), "a mark belongs to the letter before it"


@pytest.mark.parametrize("text", ["患者Anna Kowalskaさん", "이름은 Anna Kowalska는", "ชื่อAnna Kowalskaค่ะ"])
def test_a_script_without_spaces_may_stand_beside_it(text: str) -> None:
    assert seen(text) and seen(json.dumps(text))


def test_a_name_in_such_a_script_is_found_within_a_sentence() -> None:
    wang = Needle.of("欧阳娜娜", exact=False)
    assert seen("患者欧阳娜娜昨天来了", wang) and not seen("患者欧阳昨天来了", wang)


@pytest.mark.parametrize(
    "text", ["Zoë Müller-Łącka", "Ελένη Παπαδοπούλου", "Нгуен Чи́", "Trần Thị Ngọc Ánh", "José Nuñez"]
)
@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("typed", ["NFC", "NFD"])
def test_both_forms_of_unicode_are_one_name(text: str, form: str, typed: str) -> None:
    needle = Needle.of(unicodedata.normalize(typed, text), exact=False)
    there = unicodedata.normalize(form, f"from {text}, today")
    escaped = json.dumps(there)
    assert seen(there, needle) and seen(escaped, needle) and seen(there.upper(), needle)
    assert seen(escaped.replace("\\u00e", "\\u00E"), needle)
    assert seen(yaml.safe_dump({"x": there}, width=1000), needle), "escapes of YAML"


def test_escapes_in_capitals_are_escapes() -> None:
    zoe = Needle.of("Zoë Müller", exact=False)
    assert seen(r'{"x": "Zo\u00EB M\u00FCller"}', zoe) and seen(r'"Zo\xEB M\xFCller"', zoe)
    assert seen("Zo&euml; M&#252;ller", zoe) and seen("Zo&#xEB;&nbsp;M&#xfc;ller", zoe)


def test_quotes_slashes_and_hyphens_of_a_name() -> None:
    needle = Needle.of("Siobhán O'Brien-Nagy", exact=False)
    quoted = ("'Siobhán O''Brien-Nagy'", r"Siobh\u00e1n O\u0027Brien-Nagy")
    for text in ("Siobhán O’Brien‑Nagy", "SIOBHÁN O'BRIEN–NAGY", *quoted):
        assert seen(text, needle), text
    key = Needle.of('A/12-"3"', exact=True)
    assert seen(r'{"x": "A\/12-\"3\""}', key) and seen('"A/12-""3"""', key) and not seen('a/12-"3"', key)


@pytest.mark.parametrize("space", [" ", "\u00a0", "\u202f", "\u3000", "  \n  ", r"\n", r"\u00A0", "&nbsp;"])
def test_any_space_stands_between_the_words_of_a_name(space: str) -> None:
    assert seen(f"Anna{space}Kowalska") and not seen(f"Anna{space}x{space}Kowalska")


def test_a_find_within_a_word_hides_none_behind_it() -> None:
    assert list(Needle.of("ana ana", exact=True).places(b"xana ana ana")) == [(5, 12)]


def test_bytes_that_are_no_utf8_end_a_word() -> None:
    assert ANNA.stands_in(b"caf\xe9Anna Kowalska\xff") and ANNA.stands_in(b"\x00Anna Kowalska\x00")


def test_escapes_become_the_text_that_they_mean() -> None:
    text = "żółta łódka 😀 plain"
    assert unescaped(json.dumps(text).encode()).decode() == f'"{text}"'
    assert composed(" e\u0301 ") == "é"


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_json_within_json_is_read_as_far_as_it_goes(depth: int) -> None:
    text = 'from Zoë\nO\'Müller "today", żółta łódka'
    for _ in range(depth):
        text = json.dumps(text)
    assert seen(text, Needle.of("Zoë O'Müller", exact=False)) and "żółta łódka" in unescaped(text.encode()).decode()
    assert seen("of Zoë O&apos;Müller", Needle.of("Zoë O'Müller", exact=False))


def test_a_long_run_of_backslashes_takes_no_longer_than_other_bytes() -> None:
    data = b"\\" * (1 << 20)
    assert unescaped(data) == data and not ANNA.stands_in(data)
