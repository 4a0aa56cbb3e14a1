"""Which words of the rows may stand on a page: no names, and nothing that only a few people say."""

from __future__ import annotations

import numpy as np
import pytest

from metier.data.disclosure import Guard


def everywhere(texts: list[str]) -> np.ndarray:
    return np.arange(len(texts))


@pytest.mark.parametrize(
    ("text", "word", "allowed"),
    [
        ("Mr Anthony Quillfeather asked for his card.", "quillfeather", False),
        ("Mr Anthony Quillfeather asked for his card.", "card", True),
        ("Write to anna.quill@example.org about the refund.", "quill", False),
        ("Write to anna.quill@example.org about the refund.", "refund", True),
        ("Nothing here", "absent", True),
    ],
)
def test_a_word_inside_an_identifier_is_held_back(text: str, word: str, allowed: bool) -> None:
    texts = [text] * 20
    assert Guard(texts).allows((word,), everywhere(texts)) is allowed


def test_one_of_the_rows_looked_at_is_enough_to_hold_a_word_back() -> None:
    texts = ["The baker sells bread."] * 19 + ["Dear Mr Baker, thank you."]
    rows = np.array([0, 5, 10, 15, 19])
    assert Guard(texts).allows(("baker",), rows[:4])
    assert not Guard(texts).allows(("baker",), rows)


def test_a_word_of_fewer_than_five_people_is_held_back() -> None:
    texts = ["The gazebo leaks."] * 20
    four, five = ([f"P-{i % n}" for i in range(20)] for n in (4, 5))
    assert not Guard(texts, [four]).allows(("gazebo",), everywhere(texts))
    assert Guard(texts, [five]).allows(("gazebo",), everywhere(texts))
    assert not Guard(texts, [five, four]).allows(("gazebo",), everywhere(texts))
    assert Guard(texts, [[None] * 20]).allows(("gazebo",), everywhere(texts))  # nobody is told apart by it


def test_a_word_is_looked_for_far_into_a_text() -> None:
    texts = ["so it goes on. " * 60 + "Signed, Mr Anthony Quillfeather"] * 12
    assert not Guard(texts).allows(("quillfeather",), everywhere(texts))
