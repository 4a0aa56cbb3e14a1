"""The word list: how often ordinary text writes a word small, and with a capital inside a sentence.

Made by scripts/make_wordlist.py from public-domain books; assets/README.md says which. Read once, when first asked for.
"""

from __future__ import annotations

import gzip
from functools import cache
from importlib import resources

_STEMS = (
    ("ies", "y"), ("es", ""), ("s", ""), ("ied", "y"), ("ed", ""), ("ed", "e"), ("ing", ""), ("ing", "e"), ("ly", ""),
    ("ness", ""),
)  # fmt: skip
_PREFIXES = ("un", "re", "non", "pre", "over", "mis", "dis", "anti", "multi", "super", "sub", "inter")


@cache
def shares() -> dict[str, float]:
    """Return word → share of its uses inside sentences that have a capital, 0 (never) to 1 (always).

    Raises:
        FileNotFoundError: the package was installed without its assets.
    """
    packed = resources.files("metier.data.privacy").joinpath("assets/words.gz").read_bytes()
    words_line, levels = gzip.decompress(packed).decode("utf-8").splitlines()
    parts = words_line.split(" ")
    found: dict[str, float] = {}
    word = ""
    num_words = len(parts)
    for index, part in enumerate(parts):
        word = word[: ord(part[0]) - ord("0")] + part[1:]
        small, capital = (
            2.0 ** (ord(levels[index]) - ord("0")) - 1,
            2.0 ** (ord(levels[num_words + index]) - ord("0")) - 1,
        )
        found[word] = capital / (small + capital)
    return found


def share(word: str) -> float | None:
    """Return the share of capitals of a word (small), or None where neither it nor a stem of it is in the list."""
    table = shares()
    known = table.get(word)
    if known is not None:
        return known
    for ending, instead in _STEMS:
        if word.endswith(ending) and len(word) - len(ending) > 2:
            stem = word[: len(word) - len(ending)] + instead
            known = table.get(stem)
            if known is not None and known < 0.05:
                return known
            if len(stem) > 3 and stem[-1] == stem[-2] and (known := table.get(stem[:-1])) is not None and known < 0.05:
                return known  # `blogging`, `mapped`
    for prefix in _PREFIXES:
        if (
            word.startswith(prefix)
            and (known := table.get(word[len(prefix) :])) is not None
            and known < 0.05
            and len(word) > 6
        ):
            return known
    return None
