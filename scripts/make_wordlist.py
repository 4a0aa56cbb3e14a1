"""Count the words that the de-identification rules know: how often each is written small, how often with a capital.

    python scripts/make_wordlist.py            # METIER_DATA names the folder with the public data sets

Two public-domain sources (see src/metier/data/privacy/assets/README.md): books of Project Gutenberg and the CIA World
Factbook (CC0); and scripts/modern_words.txt, words younger than either, written by hand. A capital counts only inside a
sentence, where it says something. The list is what makes a word *ordinary*; whatever is not in it is a suspect. So a
word must be written small in several books, which keeps the names and the foreign words of a single one out.

The file is a gzip of two lines: the sorted words, each as the number of letters it shares with the one before it (one
character from `0` on) and the rest; and two characters per word, the levels of its counts, each `round(log2(1 + n))`
counted from `0` on.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ASSET = ROOT / "src" / "metier" / "data" / "privacy" / "assets" / "words.gz"
MODERN = ROOT / "scripts" / "modern_words.txt"
MODERN_COUNT = 500
"""The count a hand-written modern word gets: clearly ordinary, and its capitals stay what the sources say."""
SMALL = re.compile(r"(?<![^\W\d_])[a-zà-öø-ÿ]{2,24}(?![^\W\d_])")
CAPITAL = re.compile(r"(?<=[a-z,;] )[A-ZÀ-ÖØ-Þ][a-zà-öø-ÿ]{1,23}(?![^\W\d_])")


def texts(data: Path) -> Iterator[str]:
    """Yield the documents of the public-domain sources."""
    import pyarrow.parquet as parquet

    for batch in parquet.ParquetFile(data / "gutenberg" / "train.parquet").iter_batches(8, columns=["text"]):
        yield from (text.as_py() for text in batch.column(0))
    with (data / "factbook" / "factbook.jsonl").open(encoding="utf-8") as lines:
        for line in lines:
            yield " ".join(section["text"] for section in json.loads(line)["sections"])


def count(documents: Iterable[str]) -> tuple[Counter[str], Counter[str], Counter[str]]:
    """Return word → times written small, times with a capital inside a sentence, documents that write it small."""
    small: Counter[str] = Counter()
    capital: Counter[str] = Counter()
    spread: Counter[str] = Counter()
    for document in documents:
        found = Counter(SMALL.findall(document))
        small.update(found)
        spread.update(found.keys())
        capital.update(word.lower() for word in CAPITAL.findall(document))
    return small, capital, spread


def chosen(small: Counter[str], capital: Counter[str], spread: Counter[str], documents: int, names: int) -> list[str]:
    """Return the words that are kept: small in so many documents, or with a capital so many times."""
    return sorted(
        word for word in {*small, *capital} if spread[word] >= documents or (capital[word] >= names and len(word) > 1)
    )


def packed(words: list[str], small: Counter[str], capital: Counter[str]) -> bytes:
    """Return the asset's bytes."""
    parts, levels, before = [], [], ""
    for word in words:
        shared = next(
            (i for i, (a, b) in enumerate(zip(before, word, strict=False)) if a != b), min(len(before), len(word))
        )
        parts.append(chr(ord("0") + shared) + word[shared:])
        levels += [chr(ord("0") + round(math.log2(1 + n))) for n in (small[word], capital[word])]
        before = word
    text = " ".join(parts) + "\n" + "".join(levels[0::2]) + "".join(levels[1::2]) + "\n"
    return gzip.compress(text.encode("utf-8"), 9, mtime=0)


def main() -> None:
    """Write the asset and say how large it is."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("--documents", type=int, default=8, help="documents that must write a word small")
    parser.add_argument("--names", type=int, default=150, help="capitals from which a word is kept as a name")
    arguments = parser.parse_args()
    small, capital, spread = count(texts(Path(os.environ["METIER_DATA"])))
    for word in MODERN.read_text(encoding="utf-8").split():
        small[word] += MODERN_COUNT
        spread[word] += arguments.documents
    words = chosen(small, capital, spread, arguments.documents, arguments.names)
    ASSET.write_bytes(data := packed(words, small, capital))
    print(f"{len(words):,} words, {len(data):,} bytes: {ASSET}")  # noqa: T201 - a script speaks on its terminal


if __name__ == "__main__":
    main()
