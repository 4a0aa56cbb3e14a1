"""Measure the data report and write benchmarks/data.md's part on it.

    python benchmarks/data_report.py        # METIER_DATA names the folder with the public data sets

Processor time of the figures; how well topics agree with BANKING77's intents; which words of a labelled set of personal
data stand in a report, with and without the gate of data/disclosure.py.
"""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any
from unittest import mock

from machine import data_dir, need, publish_part, table
from sklearn.metrics import normalized_mutual_info_score

from metier.core.types import Conversation, Example, Labelled, Message, Text, identify
from metier.data.disclosure import Guard
from metier.data.figures import MAX_CHARACTERS, measure
from metier.data.topics import topics_of
from metier.data.words import words_in

NUM_ROWS, LOOKS = 10_000, 3


def banking() -> Iterator[Labelled]:
    for name in ("train", "test"):
        with need(data_dir() / "banking77" / f"{name}.csv").open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                yield identify(Labelled(text=row["text"], target=row["category"]))


def medical() -> Iterator[Conversation]:
    with need(data_dir() / "medquad" / "medquad.jsonl").open(encoding="utf-8") as file:
        for row in map(json.loads, file):
            if row.get("question") and row.get("answer"):
                said = (Message("user", row["question"]), Message("assistant", row["answer"]))
                yield identify(Conversation(messages=said))


def timed(name: str, rows: Sequence[Example]) -> list[str]:
    """Return a line: rows, megabytes, seconds of processor time at first and at best."""
    looks = []
    for _ in range(LOOKS):
        began = time.process_time()
        measure({"train": rows[: 8 * len(rows) // 10], "test": rows[8 * len(rows) // 10 :]})
        looks.append(time.process_time() - began)
    texts = (e.text if isinstance(e, Labelled) else "".join(m.text for m in e.messages) for e in rows)  # type: ignore
    size = sum(len(text.encode()) for text in texts) / 1e6
    return [name, f"{len(rows):,}", f"{size:.1f}", f"{looks[0]:.2f}", f"{min(looks):.2f}"]


def agreement(rows: Sequence[Labelled]) -> tuple[int, float]:
    """Return how many topics there are, and their normalised mutual information with the labels."""
    found = topics_of(words_in([row.text[:MAX_CHARACTERS] for row in rows]))
    return len(found.keywords), float(normalized_mutual_info_score([row.target for row in rows], found.topic_N))


def shown(figures: dict[str, Any]) -> list[str]:
    """Return the words of rows that stand in a report: keywords, and the words of openings."""
    words = [word for topic in figures["topics"]["topics"] for word in topic["keywords"]]
    return words + [word for side in figures["openings"].values() for said, _ in side["shown"] for word in said.split()]


def main() -> None:
    labelled = list(islice(banking(), NUM_ROWS))
    speeds = [timed("BANKING77", labelled), timed("MedQuAD", list(islice(medical(), NUM_ROWS)))]
    num, information = agreement(labelled)
    documents = json.loads(need(data_dir() / "pii" / "generated_large.json").read_text(encoding="utf-8"))
    identifiers = {word for d in documents for s in d["spans"] for word in words_in([s["entity_value"]]).vocabulary}
    rows = [identify(Text(text=d["full_text"])) for d in documents]
    gated = shown(measure({"train": rows}))
    with mock.patch.object(Guard, "allows", lambda self, said, where: True):
        open_words = shown(measure({"train": rows}))
    words = [
        [name, str(len(found)), ", ".join(sorted({w for w in found if w in identifiers})) or "none"]
        for name, found in (("with the gate", gated), ("without it", open_words))
    ]
    publish_part(
        "data.md",
        "data report",
        "## The data report",
        "Processor time of one thread. The first look of the first line holds lingua's models; scikit-learn, whose"
        " import takes another 0.7 s of a process, is there before.",
        table(["data", "rows", "MB", "first look, s", f"best of {LOOKS}, s"], speeds),
        f"Topics: {num} of {len(labelled):,} questions of BANKING77; normalised mutual information with its 77"
        f" intents {information:.3f}.",
        f"Words of rows that a report shows, of {len(documents):,} texts with labelled personal data; a word counts"
        " as part of an identifier where any label anywhere in the set holds it.",
        table(["", "words shown", "of them part of a labelled identifier"], words),
    )


if __name__ == "__main__":
    main()
