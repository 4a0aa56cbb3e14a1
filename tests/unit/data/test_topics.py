"""Topics: texts that share words come together, keywords set them apart, and words of few texts are never shown."""

from __future__ import annotations

import random

import numpy as np
import pytest

from metier.data import topics
from metier.data.function_words import function_words
from metier.data.topics import num_topics, topics_of
from metier.data.words import words_in

THEMES = {
    "card": "card activate lost virtual plastic order",
    "rent": "rent landlord lease tenant deposit flat",
    "fever": "fever cough doctor tablet throat pain",
}


def texts(num: int = 50, seed: int = 0) -> tuple[list[str], list[int]]:
    """Return `num` texts of each theme, shuffled, and their themes."""
    rng = random.Random(seed)
    made = [
        ("please tell me about the " + " ".join(rng.sample(words.split(), 4)), theme)
        for theme, words in enumerate(THEMES.values())
        for _ in range(num)
    ]
    rng.shuffle(made)
    return [text for text, _ in made], [theme for _, theme in made]


@pytest.mark.parametrize(
    ("n", "k"), [(0, 0), (1, 0), (99, 0), (100, 2), (400, 4), (2_500, 10), (10_000, 20), (10**6, 20)]
)
def test_the_number_of_topics_grows_with_the_root_of_the_texts(n: int, k: int) -> None:
    assert num_topics(n) == k


def test_each_topic_holds_one_theme_and_its_keywords_are_of_that_theme(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topics, "num_topics", lambda n: 3)
    said, themes = texts()
    found = topics_of(words_in(said))
    for number, keywords in enumerate(found.keywords):
        (theme,) = {themes[row] for row in np.flatnonzero(found.topic_N == number)}
        assert 3 <= len(keywords) <= 6
        assert set(keywords) <= set(list(THEMES.values())[theme].split())  # no word that stands everywhere


def test_the_same_texts_give_the_same_topics_and_the_largest_comes_first() -> None:
    said, _ = texts()
    one, other = topics_of(words_in(said)), topics_of(words_in(said))
    assert (one.topic_N == other.topic_N).all() and one.keywords == other.keywords
    sizes = np.bincount(one.topic_N).tolist()
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize(
    "said", [[], ["one"], ["a b c"] * 2, ["!"] * 10, [""] * 200, ["12 34"] * 200, ["same words here"] * 200]
)
def test_where_nothing_can_be_told_apart_there_are_no_topics(said: list[str]) -> None:
    found = topics_of(words_in(said))
    assert found.keywords == [] and found.topic_N.tolist() == [-1] * len(said)


def test_a_text_without_a_usable_word_is_in_no_topic() -> None:
    said, _ = texts()
    found = topics_of(words_in(["", "12", *said]))
    assert found.topic_N[:2].tolist() == [-1, -1] and (found.topic_N[2:] >= 0).all()


def test_a_word_of_fewer_than_ten_texts_is_used_but_never_shown() -> None:
    said, themes = texts()
    first = [row for row, theme in enumerate(themes) if theme == 0][:9]
    for row in first:
        said[row] += " quillfeather"
    shown = [word for words in topics_of(words_in(said)).keywords for word in words]
    assert shown and "quillfeather" not in shown
    said[next(row for row, theme in enumerate(themes) if theme == 0 and row not in first)] += " quillfeather"
    tenth = topics_of(words_in(said), lambda word, rows: word == "quillfeather").keywords
    assert [words for words in tenth if words] == [["quillfeather"]]


def test_who_counts_may_refuse_a_word_and_the_next_one_takes_its_place() -> None:
    said, _ = texts()
    seen: dict[str, int] = {}

    def allowed(word: str, rows: np.ndarray) -> bool:
        seen[word] = len(rows)
        assert all(word in said[row].split() for row in rows)
        return word != "card"

    assert all("card" not in words and words for words in topics_of(words_in(said), allowed).keywords)
    assert "card" in seen and min(seen.values()) >= 10


def test_where_no_spaces_are_written_pairs_of_signs_are_the_words() -> None:
    said = ["银行卡丢失" if i % 2 else "房租押金合同" for i in range(120)]
    shown = {word for words in topics_of(words_in(said)).keywords for word in words}
    assert {"银行", "房租"} & shown and all(len(word) == 2 for word in shown)


def test_function_words_are_those_of_the_languages_that_are_there() -> None:
    english = {"the": 30, "and": 20, "war": 50, "map": 100}
    german = {"der": 30, "und": 20, "war": 50, "karte": 100}
    assert "war" not in function_words(english) and "the" in function_words(english)
    assert "war" in function_words(german) and "the" not in function_words(german)
    assert function_words({}) == frozenset()
