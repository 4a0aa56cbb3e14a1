"""Malformed rows by kind, each with the class that it must be reported by, to be mixed among good ones.

Every one carries MARK, which may stand in the quarantine and nowhere else.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass

MARK = "zqsecretzq"
"""Part of the content of every malformed row."""

_TEXT = f'"text": "my {MARK} is gone"'
_LABEL = '"label": "card"'

KINDS: dict[str, tuple[Callable[[int], bytes], str]] = {
    "a byte of Latin-1": (lambda i: f'{{"text": "caf\xe9 {MARK} {i}", {_LABEL}}}'.encode("latin-1"), "not-utf8"),
    "a letter of Windows-1252": (lambda i: f'{{"text": "5 € {MARK} {i}", {_LABEL}}}'.encode("cp1252"), "not-utf8"),
    "Shift JIS": (lambda i: f'{{"text": "東京 {MARK} {i}", {_LABEL}}}'.encode("shift_jis"), "not-utf8"),
    "a line of UTF-16": (lambda i: f"{{{_TEXT}, {_LABEL}}}".encode("utf-16-le"), "nul-byte"),
    "an overlong form": (lambda i: b'{"text": "' + MARK.encode() + b' \xc0\xaf", "label": "card"}', "not-utf8"),
    "an encoded surrogate": (lambda i: b'{"text": "' + MARK.encode() + b' \xed\xa0\xbd", "label": "a"}', "not-utf8"),
    "half an escaped pair": (lambda i: f'{{"text": "{MARK} \\ud83d {i}", {_LABEL}}}'.encode(), "lone-surrogate"),
    "a NUL": (lambda i: f'{{"text": "{MARK} \x00 {i}", {_LABEL}}}'.encode(), "nul-byte"),
    "an escaped NUL": (lambda i: f'{{"text": "{MARK} \\u0000 {i}", {_LABEL}}}'.encode(), "nul-byte"),
    "a raw tab in a string": (lambda i: f'{{"text": "{MARK}\t{i}", {_LABEL}}}'.encode(), "invalid-json"),
    "cut off": (lambda i: f"{{{_LABEL}, {_TEXT[:-1]}".encode(), "invalid-json"),
    "two rows in one line": (lambda i: f"{{{_TEXT}, {_LABEL}}}{{{_TEXT}, {_LABEL}}}".encode(), "invalid-json"),
    "Python's quotes": (lambda i: f"{{'text': '{MARK} {i}', 'label': 'card'}}".encode(), "invalid-json"),
    "a comma too many": (lambda i: f"{{{_TEXT}, {_LABEL},}}".encode(), "invalid-json"),
    "a line of CSV": (lambda i: f"{MARK} {i},card".encode(), "invalid-json"),
    "a page of HTML": (lambda i: f"<html><body>502 {MARK} {i}</body></html>".encode(), "invalid-json"),
    "a number of 5,000 digits": (lambda i: f'{{{_TEXT}, {_LABEL}, "n": {"9" * 5000}}}'.encode(), "invalid-json"),
    "100,000 open brackets": (lambda i: f"{{{_TEXT}, {_LABEL}, ".encode() + b'"n": ' + b"[" * 100_000, "invalid-json"),
    "nested 900 deep": (
        lambda i: f'{{{_TEXT}, {_LABEL}, "n": {"[" * 900}"\\u0041"{"]" * 900}}}'.encode(),
        "too-deep",
    ),
    "a key given twice": (lambda i: f"{{{_TEXT}, {_LABEL}, {_TEXT}}}".encode(), "duplicate-key"),
    "NaN": (lambda i: f'{{{_TEXT}, {_LABEL}, "n": NaN}}'.encode(), "not-a-number"),
    "a number without end": (lambda i: f'{{{_TEXT}, {_LABEL}, "n": 1e999}}'.encode(), "not-a-number"),
    "a list": (lambda i: json.dumps([MARK, "card"]).encode(), "not-an-object"),
    "a string": (lambda i: json.dumps(f"{MARK} {i}").encode(), "not-an-object"),
    "no text": (lambda i: f'{{"note": "{MARK} {i}", {_LABEL}}}'.encode(), "not-text"),
    "a blank text": (lambda i: f'{{"text": "  ", {_LABEL}, "note": "{MARK}"}}'.encode(), "empty-text"),
    "a number for a text": (lambda i: f'{{"text": {i}, {_LABEL}, "note": "{MARK}"}}'.encode(), "not-text"),
    "no label": (lambda i: f"{{{_TEXT}}}".encode(), "no-label"),
    "an object for a label": (lambda i: f'{{{_TEXT}, "label": {{"name": "card"}}}}'.encode(), "no-label"),
    "a label twice in a list": (lambda i: f'{{{_TEXT}, "label": ["card", "card"]}}'.encode(), "label-twice"),
}
"""What is wrong → (the line of the i-th row of this kind, the class of the report)."""

WORDS = [
    "fee",
    "card",
    "rate",
    "limit",
    "refund",
    "transfer",
    "cheque",
    "balance",
    "branch",
    "exchange",
    "account",
    "holiday",
    "letter",
    "phone",
]
PLACES = [
    "Bern",
    "Lima",
    "Oslo",
    "Cairo",
    "Quito",
    "Delhi",
    "Turin",
    "Accra",
    "Hanoi",
    "Minsk",
    "Perth",
    "Sofia",
    "Tunis",
    "Malmo",
    "Kyoto",
    "Dakar",
]


@dataclass(frozen=True)
class Mixed:
    """A JSONL file of labelled rows, some of them malformed."""

    data: bytes
    bad: list[tuple[int, str]]
    """(line, class) of the malformed rows, in order."""
    num_good: int


def mixed(num_rows: int, num_bad: int, seed: int = 0) -> Mixed:
    """Return `num_rows` rows of which `num_bad` are malformed, each kind as often as the others."""
    draw = random.Random(seed)
    at = sorted(draw.sample(range(num_rows), num_bad))
    kinds = [list(KINDS)[i % len(KINDS)] for i in range(num_bad)]
    draw.shuffle(kinds)
    wrong = dict(zip(at, kinds, strict=True))
    lines, bad = [], []
    for i in range(num_rows):
        if i in wrong:
            make, reason = KINDS[wrong[i]]
            lines.append(make(i))
            bad.append((i + 1, reason))
        else:
            text = f"{draw.choice(PLACES)} {i * 7919}: {' '.join(draw.sample(WORDS, 5))} {draw.choice(PLACES)}"
            lines.append(json.dumps({"text": text, "label": WORDS[i % 5]}).encode())
    return Mixed(b"\n".join(lines) + b"\n", bad, num_rows - num_bad)
