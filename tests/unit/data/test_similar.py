"""Duplicates: found all, invented none, the same every time."""

from __future__ import annotations

import random

import numpy as np
import pytest

from metier.core.types import Conversation, Labelled, Message, Preference
from metier.data import similar
from metier.data.similar import SHINGLE, comparable, liken, normalise

WORDS = [f"{a}{b}{c}" for a in "bdfg" for b in ("are", "olo", "ine", "umi") for c in ("n", "sk", "t", "ra", "lo")]


def jaccard(one: str, other: str) -> float:
    a, b = (
        {t[i : i + SHINGLE] for i in range(max(1, len(t) - SHINGLE + 1))} for t in (normalise(one), normalise(other))
    )
    return len(a & b) / len(a | b)


def texts(n: int, seed: int = 0) -> list[str]:
    """Random sentences, half of them edits of another."""
    rng = random.Random(seed)
    made = [" ".join(rng.choices(WORDS, k=rng.randint(3, 25))) for _ in range(n // 2)]
    for text in list(made):
        words = text.split()
        for _ in range(rng.randint(0, 3)):
            words[rng.randrange(len(words))] = rng.choice(WORDS)
        made.append(" ".join(words))
    return made


def test_case_spacing_and_punctuation_do_not_make_a_text_new() -> None:
    assert normalise("Where’s  my CARD?!") == normalise("where s my card")
    assert normalise("\uff21 \u00e9") == normalise("a e\u0301")
    assert normalise("?!") == "?!" != normalise("!")


@pytest.mark.parametrize("threshold", [0.2, 0.45, 0.6, 0.85])
def test_near_pairs_are_those_of_the_brute_force(threshold: float) -> None:
    made = list(dict.fromkeys(texts(300)))
    found = {(int(a), int(b)) for a, b in liken(made, threshold).pairs_X2}
    exact = {
        (a, b) for a in range(len(made)) for b in range(a + 1, len(made)) if jaccard(made[a], made[b]) >= threshold
    }
    assert len(exact) > 20
    assert found <= exact or all(jaccard(made[a], made[b]) > threshold - 0.05 for a, b in found - exact)
    assert len(exact - found) <= len(exact) // 100


def test_a_byte_of_each_value_says_as_much_as_the_similarity_itself() -> None:
    made = list(dict.fromkeys(map(normalise, texts(400))))
    byte, whole = (similar._signatures(made, 0, np.dtype(kind)) for kind in (np.uint8, np.uint32))
    a, b = np.triu_indices(len(made), 1)
    off = similar._estimates(byte, a, b) - similar._estimates(whole, a, b)
    assert abs(off.mean()) < 0.0005, "1/256 of the values agree by chance, and this is corrected for"
    likely = np.argsort(-similar._estimates(byte, a, b))[:200]
    true = np.array([jaccard(made[a[i]], made[b[i]]) for i in likely])
    assert np.abs(similar._estimates(byte, a, b)[likely] - true).max() < similar.CLEAR_MARGIN
    assert similar._estimates(byte, a[:1], a[:1]) == 1.0


def test_little_memory_for_5_grams_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    made = texts(300)
    expected = liken(made, 0.7)
    monkeypatch.setattr(similar, "MAX_SHINGLES", 100)
    monkeypatch.setattr(similar, "CHUNK_TEXTS", 7)
    monkeypatch.setattr(similar, "CHUNK_PAIRS", 3)
    found = liken(made, 0.7)
    assert np.array_equal(found.text_N, expected.text_N) and np.array_equal(found.pairs_X2, expected.pairs_X2)


def test_it_is_deterministic_and_does_not_depend_on_order() -> None:
    made = texts(200)
    first = liken(made, 0.7).groups()
    assert np.array_equal(first, liken(made, 0.7).groups())
    order = np.random.default_rng(0).permutation(len(made))
    moved = liken([made[i] for i in order], 0.7).groups()
    same = {(int(i), int(j)) for i in range(200) for j in range(200) if first[i] == first[j]}
    again = {(int(order[i]), int(order[j])) for i in range(200) for j in range(200) if moved[i] == moved[j]}
    assert same == again


def test_chains_and_keys_join_groups() -> None:
    made = ["alpha beta gamma", "Alpha, beta gamma!", "something else entirely", "and a fourth thing"]
    assert liken(made, 1.0).groups().tolist() == [0, 0, 1, 2]
    assert liken(made, 1.0).groups([None, "p1", "p1", None]).tolist() == [0, 0, 0, 2]


def test_rows_of_one_template_are_one_group_in_reasonable_time() -> None:
    made = [
        f"Order {i} has shipped and will arrive on the third day of the month as planned by us" for i in range(3000)
    ]
    assert len(set(liken(made, 0.8).groups().tolist())) == 1


def test_twins_across_two_sides() -> None:
    base = "I would like to know when my new card will arrive please"
    made = [base, "a wholly different question about fees", base.upper() + "!", base + " now", "fresh words only here"]
    rows, others = np.array([False, False, True, True, True]), np.array([True, True, False, False, False])
    exact, near = liken(made, 0.85).twins(rows, others)
    assert exact.tolist() == [False, False, True, False, False]
    assert near.tolist() == [False, False, False, True, False]
    part = liken(made, 0.85).of([1, 3, 4])
    assert part.text_N.tolist() == [0, 1, 2] and len(part.pairs_X2) == 0


def test_nothing_and_empty_texts() -> None:
    assert liken([], 0.85).groups().tolist() == []
    assert liken(["", " ", "a"], 0.85).groups().tolist() == [0, 0, 1]


def test_what_is_compared_leaves_out_what_all_rows_share() -> None:
    asked = (Message("system", "Be brief."), Message("user", "Summarize as HPI:\nlong text"))
    conversation = Conversation(messages=(*asked, Message("assistant", "short")))
    assert comparable(conversation, ["Summarize as "]) == "  HPI:\nlong text\nshort".replace("  ", " ", 1)
    preference = Preference(
        prompt=asked[1:], chosen=(Message("assistant", "A"),), rejected=(Message("assistant", "B"),)
    )
    assert comparable(preference) == "Summarize as HPI:\nlong text"
    assert comparable(Labelled(text="T", target="x")) == "T"
