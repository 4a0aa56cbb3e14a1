"""Surrogates read backwards: what comes back, what is left, and what is not taken for one."""

from __future__ import annotations

import random

import pytest

from metier.data.privacy import surrogates
from metier.data.privacy.engine import detect
from metier.data.privacy.reversal import Reversal
from metier.data.privacy.surrogates import Vault, surrogate
from metier.data.privacy.words import share

NOTE = (
    "Zbigniew McKowalczyk lives at 12 Main Street, Springfield. Call (212) 555-0134 or write to z.k@example.com.\n"
    "MRN: 48213. He pays with 4111 1111 1111 1111; see https://kowal.example.com/a."
)


def replaced(text: str, safe: Vault) -> str:
    return surrogates.replace(text, detect(text), safe)


@pytest.mark.parametrize("seed", [b"a" * 32, b"b" * 32, b"c" * 32])
def test_a_text_comes_back_as_it_was(seed: bytes) -> None:
    safe = Vault(seed)
    made = replaced(NOTE, safe)
    assert all(gone not in made for gone in ("Kowalczyk", "Springfield", "555-0134", "48213", "4111"))
    back = Reversal(safe).restore(made)
    assert back.text == NOTE
    assert back.num_open == 0
    assert back.num_restored >= 8


@pytest.mark.parametrize("end", ["", ".", " today", "\n"])
def test_a_number_comes_back_at_the_end_of_a_text_too(end: str) -> None:
    safe = Vault(b"d" * 32)
    made = replaced(f"The patient has MRN: 48213{end}", safe)
    assert "48213" not in made and Reversal(safe).restore(made).text == f"The patient has MRN: 48213{end}"


def test_another_vault_brings_nothing_back() -> None:
    made = replaced(NOTE, Vault(b"a" * 32))
    other = Vault(b"b" * 32)
    replaced("Piotr Nowak", other)
    assert Reversal(other).restore(made).text == made


def test_a_name_comes_back_in_the_case_in_which_it_stands() -> None:
    safe = Vault(b"d" * 32)
    name = surrogate("McKowal", "PERSON", safe)
    back = Reversal(safe)
    assert [back.restore(f"{form}.").text for form in (name, name.upper(), name.lower())] == [
        "McKowal.", "MCKOWAL.", "mckowal.",
    ]  # fmt: skip


def test_a_number_is_put_back_where_it_identifies_somebody_and_nowhere_else() -> None:
    safe = Vault(b"e" * 32)
    made = surrogate("48213", "MRN", safe)
    back = Reversal(safe).restore(f"MRN: {made}. It cost {made} dollars to repair the roof of the old town hall.")
    assert back.text == f"MRN: 48213. It cost {made} dollars to repair the roof of the old town hall."


def test_short_numbers_of_addresses_have_surrogates_of_their_own() -> None:
    safe = Vault(b"f" * 32)
    for number in range(10, 90):
        surrogate(f"{number} Main Street", "ADDRESS", safe)
    made = [one for one, _ in safe.entries["PART"].values()]
    assert len(set(made)) == 80
    assert all(len(one) == 2 for one in made)


def test_a_number_that_stands_for_two_is_left_and_counted() -> None:
    safe = Vault(b"g" * 32, {"PART": {"12": ("77", "12"), "14": ("77", "14")}})
    text = "She lives at 77 Main Street, Boston."
    back = Reversal(safe).restore(text)
    assert (back.text, back.num_restored, back.num_open) == (text, 0, 1)


def test_no_invented_word_is_an_ordinary_one() -> None:
    rng = random.Random(7)
    made = [surrogates._invented("name", rng) for _ in range(3000)]
    assert [word for word in made if share(word) is not None] == []
