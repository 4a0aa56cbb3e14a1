"""Distinct-n, openings, evenness and balance, with figures that a person can check."""

from __future__ import annotations

import math

import pytest

from metier.data.diversity import NUM_WORDS, balance, diversity, evenness, openings


def test_distinct_n_is_the_share_of_different_runs() -> None:
    found = diversity(["a b a b", "a b"])
    assert (found["texts"], found["words"]) == (2, 6)
    assert found["distinct_1"] == round(2 / 6, 4)
    assert found["distinct_2"] == 0.5  # a b, b a, a b | a b: two of four
    assert found["distinct_3"] == 1.0  # a b a, b a b
    assert diversity(["one two three four"])["distinct_1"] == 1.0


def test_the_ten_most_frequent_runs_of_three_words() -> None:
    texts = ["x y z"] * 80 + [f"w {chr(97 + n)} u" for n in range(20)]
    assert diversity(texts)["frequent_3"] == 0.89  # 80 and nine that stand once, of 100


@pytest.mark.parametrize("texts", [[], [""], ["", "!"]])
def test_without_words_there_is_no_share(texts: list[str]) -> None:
    found = diversity(texts)
    assert found["words"] == 0 and found["distinct_1"] is None and found["frequent_3"] is None
    assert openings(texts, lambda said, rows: True) == {"texts": 0, "different": 0, "largest": None, "shown": []}


def test_diversity_is_taken_over_a_bounded_number_of_words() -> None:
    found = diversity(["a b c d e f g h i j"] * (NUM_WORDS // 10 + 50))
    assert (found["texts"], found["words"]) == (NUM_WORDS // 10, NUM_WORDS)


def test_openings_are_counted_and_shown_where_ten_texts_share_them() -> None:
    texts = (
        ["How do I pay?"] * 12 + ["how do I leave"] * 3 + ["Tell me more"] * 9 + ["ok"] * 6 + ["In 2024 the sun"] * 11
    )
    found = openings(texts, lambda said, rows: True)
    assert (found["texts"], found["different"], found["largest"]) == (35, 3, round(15 / 35, 4))
    assert found["shown"] == [["how do i", 15]]  # nine are too few, numbers are never shown
    assert openings(texts, lambda said, rows: False)["shown"] == []


def test_an_opening_that_may_not_be_shown_still_counts() -> None:
    asked: list[tuple[tuple[str, ...], list[int]]] = []
    openings(["no", *["a b c d"] * 10], lambda said, rows: bool(asked.append((said, rows.tolist()))))
    assert asked == [(("a", "b", "c"), list(range(1, 11)))]


def test_evenness_is_entropy_over_its_largest_value() -> None:
    assert evenness([5, 5, 5, 5]) == 1.0
    assert evenness([7, 0]) == 0.0
    assert evenness([3, 1]) == round((0.75 * math.log2(4 / 3) + 0.25 * 2), 4)
    assert evenness([3]) is None and evenness([]) is None and evenness([0, 0]) is None


def test_balance_names_the_rarest_and_has_no_ratio_to_nothing() -> None:
    found = balance({"fee": 30, "card": 10})
    assert (found["largest"], found["smallest"], found["rarest"], found["ratio"]) == (30, 10, "card", 3.0)
    assert balance({"fee": 30, "card": 0})["ratio"] is None
