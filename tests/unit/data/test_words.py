"""Words as numbers: what a word is in several scripts, and runs of words that stay inside their text."""

from __future__ import annotations

import pytest

from metier.data.words import pattern, words_in


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("I don't pay 3,50 €", ["i", "don't", "pay", "3", "50"]),
        ("Straße STRASSE", ["strasse", "strasse"]),
        ("Ｆｕｌｌ width", ["full", "width"]),
        ("银行卡 OK", ["银", "行", "卡", "ok"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("из-за снега", ["из", "за", "снега"]),
        ("كتابٌ جديد", ["كتابٌ", "جديد"]),
        ("", []),
        ("!? …", []),
    ],
)
def test_a_word_is_a_run_of_letters_with_their_marks_or_one_sign(text: str, words: list[str]) -> None:
    found = words_in([text])
    assert [found.vocabulary[word] for word in found.word_T] == words


def test_runs_of_words_stay_inside_their_text_and_equal_ones_share_a_number() -> None:
    found = words_in(["a b c", "b c", "", "c b"])
    starts, numbers = found.phrases(2)
    assert starts.tolist() == [0, 1, 3, 5]  # not c b across the first two texts
    assert numbers[1] == numbers[2] and len(set(numbers.tolist())) == 3
    assert found.starts().tolist() == [0, 3, 5]
    assert found.phrases(4)[0].tolist() == []


def test_a_limit_stops_behind_the_text_that_reaches_it() -> None:
    found = words_in(["a b", "c d e", "f"], 3)
    assert (found.num_texts, len(found.word_T)) == (2, 5)
    assert words_in([], 3).num_texts == 0


def test_a_long_text_without_words_or_spaces_is_read_in_linear_time() -> None:
    for text in ("a\u0301" * 50_000, "a'" * 50_000, "\u0301" * 50_000):
        assert len(pattern().findall(text)) <= 50_000
