"""The figures of a data report: what the manifest does not hold, counted over the rows.

Labels, lengths, columns, groups and repeated rows are counted over all rows, in one pass that keeps none of them.
Topics, diversity, openings, languages and scripts come from a sample, so that a million rows take seconds too: the
NUM_ROWS rows with the smallest ids, which are digests of their content, and of each the first MAX_CHARACTERS
characters. So a row is in the sample whatever the order of the files, and the same version gives the same figures.
"""

from __future__ import annotations

import unicodedata
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metier.core.extras import installed
from metier.core.types import Conversation, Example, Labelled, Message, Preference, Rated, Text
from metier.data import coverage
from metier.data.canaries import is_canary
from metier.data.digests import Digests
from metier.data.disclosure import Guard
from metier.data.diversity import balance, diversity, evenness, openings
from metier.data.labels import labels_of
from metier.data.prompt import literals
from metier.data.similar import comparable
from metier.data.steps.filter_language import languages_of
from metier.data.topics import topics_of
from metier.data.words import Words, pattern, words_in

MAX_VALUES = 12
"""A column with more distinct values is a free text or a key, not a group."""
MAX_SLICE_VALUES = 50
"""The same, for a column that `evaluation.slices` names."""
NUM_BINS = 24
NUM_ROWS = 10_000
MAX_CHARACTERS = 1_000
NUM_ROWS_LANGUAGE = 500
MAX_CHARACTERS_LANGUAGE = 200
MIN_LETTERS = 40
"""With fewer letters a text is too short to tell its language. A Chinese or Korean sign counts four."""
MIN_CONFIDENCE = 0.8
MIN_LANGUAGE_SHARE = 0.03
"""With fewer of the rows a language is not named, unless it is wanted: so many are mistaken."""

Rows = Mapping[str, Sequence[Example]]


def measure(
    splits: Rows, manifest: Mapping[str, Any] | None = None, stated: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the figures as plain data; planted canaries are no rows of the data.

    Args:
        splits: the rows of a version.
        manifest: the version's, for what tells people and groups apart, the prompt's fixed words, and the gaps.
        stated: what the recipe says of its audience (`coverage.stated`).

    Returns:
        `labels`: label → split → rows; `lengths`: split → p50, p90, p99, max and bins [low, high, rows] in characters;
        `columns`: column → value → split → rows, for columns with 2 to 12 distinct values and for slices;
        `column_values`: column → distinct values, None for more than 50; `balance`: of `labels` and of each of
        `columns`, over train (diversity.py); `groups`: of `data.split.group_by`; `repeated`: split → rows whose content
        stands before, in any split; `sample`, `topics`, `diversity`, `openings`, `scripts`, `languages`; `stated`;
        `gaps` (coverage.py).
    """
    known: Mapping[str, Any] = manifest or {}
    said = dict(stated or {})
    subjects = _subject_columns(known)
    seen = _Seen.of(splits, known.get("split", {}).get("group_by"))
    values, columns = _columns(seen.columns, subjects, said.get("slices", ()))
    labels = {label: dict(counts) for label, counts in sorted(seen.labels.items())}
    figures: dict[str, Any] = {
        "stated": said,
        "labels": labels,
        "lengths": {split: _lengths(lengths) for split, lengths in seen.lengths.items()},
        "columns": columns,
        "column_values": values,
        "balance": {
            "labels": _balance(labels),
            "columns": {column: _balance(counts) for column, counts in columns.items()},
        },
        "groups": seen.groups,
        "repeated": seen.repeated,
        **_of_sample(splits, seen, known, subjects),
    }
    return {**figures, "gaps": coverage.gaps(known, figures)}


# ───────────────────────────────────────────────────────────────────────────── all rows


@dataclass(slots=True)
class _Seen:
    """What one pass over all rows but the canaries found.

    `columns`: column → value → split → rows, None for a column with more values than any that is listed; `sample`: (id,
    split, number in it) of the rows with the smallest ids.
    """

    labels: dict[str, Counter[str]]
    lengths: dict[str, NDArray[np.int64]]
    columns: dict[str, dict[str, Counter[str]] | None]
    groups: dict[str, Any]
    repeated: dict[str, int]
    sample: list[tuple[str, str, int]]

    @classmethod
    def of(cls, splits: Rows, group_by: str | None) -> _Seen:
        labels: dict[str, Counter[str]] = {}
        columns: dict[str, dict[str, Counter[str]] | None] = {}
        lengths: dict[str, array[int]] = {}
        groups: dict[str, Counter[str]] = {}
        ids = Digests()
        id_ends: list[int] = []
        sample = _Smallest(NUM_ROWS)
        for split, examples in splits.items():
            lengths[split], groups[split] = array("q"), Counter()
            for index, example in enumerate(examples):
                if is_canary(example):
                    continue
                for label in labels_of(example):
                    labels.setdefault(label, Counter())[split] += 1
                lengths[split].append(_num_characters(example))
                _count_columns(columns, example.meta, split)
                if group_by and example.meta.get(group_by) is not None:
                    groups[split][str(example.meta[group_by])] += 1
                if example.id:
                    ids.add(example.id.encode())
                sample.add((example.id, split, index))
            id_ends.append(len(ids))
        _, first_U = ids.numbered()
        num_new = np.searchsorted(first_U, id_ends)
        repeated = np.diff(id_ends, prepend=0) - np.diff(num_new, prepend=0)
        return cls(
            labels,
            {split: np.array(found, dtype=np.int64) for split, found in lengths.items()},
            columns,
            _groups(groups, group_by),
            dict(zip(splits, repeated.tolist(), strict=True)),
            sample.sorted(),
        )


class _Smallest:
    """The smallest of many rows, by their ids."""

    def __init__(self, num: int) -> None:
        self._num = num
        self._found: list[tuple[str, str, int]] = []
        self._limit: tuple[str, str, int] | None = None

    def add(self, row: tuple[str, str, int]) -> None:
        """Take a row in, or not."""
        if self._limit is None or row < self._limit:
            self._found.append(row)
            if len(self._found) >= 2 * self._num:
                self._found = self.sorted()
                self._limit = self._found[-1]

    def sorted(self) -> list[tuple[str, str, int]]:
        """Return them in their order."""
        return sorted(self._found)[: self._num]


def _count_columns(found: dict[str, dict[str, Counter[str]] | None], meta: Mapping[str, Any], split: str) -> None:
    for column, value in meta.items():
        if isinstance(value, str | int | bool):
            counts = found.setdefault(column, {})
            if counts is not None:
                counts.setdefault(str(value), Counter())[split] += 1
                if len(counts) > MAX_SLICE_VALUES:
                    found[column] = None


def _subject_columns(manifest: Mapping[str, Any]) -> list[str]:
    """Return the columns whose values are people or groups, not kinds: they are counted, never listed."""
    permissions = [source.get("permission") or {} for source in manifest.get("sources", [])]
    named = {permission.get("subject_key") for permission in permissions} | {manifest.get("split", {}).get("group_by")}
    return sorted(column for column in named if column)


def _columns(
    found: Mapping[str, dict[str, Counter[str]] | None], subjects: Sequence[str], slices: Sequence[str]
) -> tuple[dict[str, int | None], dict[str, dict[str, dict[str, int]]]]:
    """Return how many values each column has, and the counts of those that have few."""
    limits = {column: MAX_SLICE_VALUES if column in slices else MAX_VALUES for column in found}
    listed = {
        column: {value: dict(split_counts) for value, split_counts in sorted(counts.items())}
        for column, counts in sorted(found.items())
        if counts is not None and 2 <= len(counts) <= limits[column] and column not in subjects
    }
    return {column: None if counts is None else len(counts) for column, counts in sorted(found.items())}, listed


def _balance(values: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
    """Return how even values are in train, or over all rows where train has none of them; empty for fewer than two."""
    train = {value: counts.get("train", 0) for value, counts in values.items()}
    if len(train) < 2:
        return {}
    return balance(train if any(train.values()) else {value: sum(counts.values()) for value, counts in values.items()})


def _groups(counts: Mapping[str, Counter[str]], column: str | None) -> dict[str, Any]:
    """Return how many groups each split holds and how many rows the largest has; empty without `group_by`."""
    if not column:
        return {}
    total = sum(counts.values(), Counter[str]())
    largest = max(total.values(), default=0)
    return {"column": column, "num": {split: len(found) for split, found in counts.items()}, "largest": largest}


def _num_characters(example: Example) -> int:
    """Return the characters of a row, all messages together."""
    if isinstance(example, Text | Labelled):
        return len(example.text)
    if isinstance(example, Conversation):
        return sum(len(message.text) for message in example.messages)
    if isinstance(example, Preference):
        messages = (*example.prompt, *example.chosen, *example.rejected)
    elif isinstance(example, Rated):
        messages = (*example.prompt, *example.completion)
    else:
        messages = example.prompt
    return sum(len(message.text) for message in messages)


def _lengths(lengths: NDArray[np.int64]) -> dict[str, Any]:
    """Return percentiles (nearest rank) and equal bins up to the 99th; the last bin holds the rest."""
    if not len(lengths):
        return {"n": 0}
    ordered = np.sort(lengths)

    def rank(share: float) -> int:
        return int(ordered[min(len(ordered) - 1, int(share * len(ordered)))])

    width = max(1, -(-(rank(0.99) + 1) // NUM_BINS))
    counts = np.bincount(np.minimum(ordered // width, NUM_BINS - 1), minlength=NUM_BINS).tolist()
    bins = [[i * width, (i + 1) * width, counts[i]] for i in range(NUM_BINS)]
    longest = int(ordered[-1])
    bins[-1][1] = max(bins[-1][1], longest + 1)
    return {"n": len(ordered), "p50": rank(0.5), "p90": rank(0.9), "p99": rank(0.99), "max": longest, "bins": bins}


# ───────────────────────────────────────────────────────────────────────────── the sample


def _of_sample(rows: Rows, seen: _Seen, manifest: Mapping[str, Any], subjects: Sequence[str]) -> dict[str, Any]:
    """Return topics, diversity, openings, scripts and languages."""
    fixed = literals((manifest.get("prompt") or {}).get("user"))
    examples: list[Example] = [rows[split][index] for _, split, index in seen.sample]
    splits = [split for _, split, _ in seen.sample]
    texts = [comparable(example, fixed)[:MAX_CHARACTERS] for example in examples]
    words = words_in(texts)
    meta = [[_value(example, column) for example in examples] for column in subjects]
    guard = Guard(texts, meta)
    return {
        "sample": {"rows": len(examples), "of": sum(map(len, seen.lengths.values())), "characters": MAX_CHARACTERS},
        "topics": _topics(words, guard, splits),
        **_sides(examples, fixed, subjects),
        "scripts": _scripts(words),
        "languages": _languages(texts[:NUM_ROWS_LANGUAGE], coverage.wanted_languages(manifest)),
    }


def _value(example: Example, column: str) -> str | None:
    value = example.meta.get(column)
    return None if value is None else str(value)


def _topics(words: Words, guard: Guard, splits: Sequence[str]) -> dict[str, Any]:
    """Return the topics with keywords and rows per split, how even they are, and the rows that are in none."""

    found = topics_of(words, lambda word, texts: guard.allows(tuple(pattern().findall(word)), texts))
    topics: list[dict[str, Any]] = []
    for topic, keywords in enumerate(found.keywords):
        counts = Counter(splits[row] for row in np.flatnonzero(found.topic_N == topic).tolist())
        topics.append({"keywords": keywords, "rows": dict(sorted(counts.items()))})
    even = evenness(sum(topic["rows"].values()) for topic in topics)
    return {"topics": topics, "evenness": even, "rows_in_none": int((found.topic_N < 0).sum()) if topics else 0}


def _sides(examples: Sequence[Example], fixed: Sequence[str], subjects: Sequence[str]) -> dict[str, Any]:
    """Return diversity and openings of what is asked and of what is answered, or of the texts."""
    texts: dict[str, list[str]] = {}
    numbers: dict[str, list[int]] = {}
    for number, example in enumerate(examples):
        for side, text in _said(example, fixed):
            texts.setdefault(side, []).append(text[:MAX_CHARACTERS])
            numbers.setdefault(side, []).append(number)
    found: dict[str, Any] = {"diversity": {}, "openings": {}}
    for side in sorted(texts):
        meta = [[_value(examples[number], column) for number in numbers[side]] for column in subjects]
        found["diversity"][side] = diversity(texts[side])
        found["openings"][side] = openings(texts[side], Guard(texts[side], meta).allows)
    return found


def _said(example: Example, fixed: Sequence[str]) -> Iterable[tuple[str, str]]:
    """Yield (side, text): `texts` of a text, else each message of the user (`prompts`) and of the model."""
    if isinstance(example, Text | Labelled):
        yield "texts", example.text
        return
    if isinstance(example, Conversation):
        messages: tuple[Message, ...] = example.messages
    elif isinstance(example, Preference):
        messages = (*example.prompt, *example.chosen)
    elif isinstance(example, Rated):
        messages = (*example.prompt, *example.completion)
    else:
        messages = example.prompt
    for message in messages:
        text = message.text
        if message.role == "user":
            for literal in fixed:
                text = text.replace(literal, " ", 1)
            yield "prompts", text
        elif message.role == "assistant":
            yield "completions", text


def _scripts(words: Words) -> dict[str, float]:
    """Return writing system → share of the words with letters, the most frequent first."""
    counts_V = np.bincount(words.word_T, minlength=len(words.vocabulary)).tolist()
    counts: Counter[str] = Counter()
    for word, num in zip(words.vocabulary, counts_V, strict=True):
        if word[0].isalpha():
            counts[unicodedata.name(word[0], "other").split(" ")[0].split("-")[0].capitalize()] += num
    total = sum(counts.values())
    return {script: round(num / total, 4) for script, num in counts.most_common(MAX_VALUES)}


def _languages(texts: Sequence[str], wanted: Sequence[str]) -> dict[str, Any]:
    """Return `rows`: language (or `other`: rare, doubtful) → texts, and `too_short`; empty without lingua."""
    if installed("lingua") is None:
        return {}
    counts: Counter[str] = Counter()
    num_short = 0
    for text in (text[:MAX_CHARACTERS_LANGUAGE] for text in texts):
        if sum(4 if sign > "\u2e80" else 1 for sign in text if sign.isalpha()) < MIN_LETTERS:
            num_short += 1
        else:
            code, confidence = next(iter(languages_of(text).items()), ("", 0.0))
            counts[code if confidence >= MIN_CONFIDENCE else ""] += 1
    least = MIN_LANGUAGE_SHARE * sum(counts.values())
    named = {code: num for code, num in counts.most_common() if code and (num >= least or code in wanted)}
    rest = sum(counts.values()) - sum(named.values())
    return {"rows": named | ({"other": rest} if rest else {}), "too_short": num_short}
