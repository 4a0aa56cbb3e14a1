"""Equal things share a number, in the order in which they come first."""

from __future__ import annotations

import random

from metier.data.digests import Digests


def test_things_are_numbered_as_a_dict_would() -> None:
    rng = random.Random(0)
    things = [str(rng.randrange(400)).encode() for _ in range(1000)]
    digests = Digests()
    for thing in things:
        digests.add(thing)
    numbers: dict[bytes, int] = {}
    expected = [numbers.setdefault(thing, len(numbers)) for thing in things]
    number_N, first_U = digests.numbered()
    assert number_N.tolist() == expected
    assert first_U.tolist() == [things.index(thing) for thing in numbers]
    assert len(digests) == 1000


def test_nothing_and_one_thing() -> None:
    digests = Digests()
    assert [found.tolist() for found in digests.numbered()] == [[], []]
    digests.add(b"")
    assert [found.tolist() for found in digests.numbered()] == [[0], [0]]
