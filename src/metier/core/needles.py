"""How a text is found in bytes, however it is written there: the key or the name of a person who is to be erased.

One search serves rows and raw files, so that both find the same. A text is found in UTF-8, composed or decomposed (NFC,
NFD: some systems export the second), with the escapes of JSON, YAML, HTML and CSV, and as a whole word: no letter or
digit of any script stands beside it. A typographic sign is neither, nor is the escape `\\n`, which ends in a letter in
the bytes of a JSON file. Letters of a script that is written without spaces may stand beside a word, too.

Left out: letters that only look alike, and percent escapes. Other encodings are decoded by who reads them (scan.py).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from html.entities import codepoint2name

MAX_NEEDLE_BYTES = 4096
"""The longest find of a needle: two chunks of a file overlap by so much."""

_LETTERS = frozenset({"Lu", "Ll", "Lt", "Lo", "Nd"})
"""Not Lm and No: a modifier apostrophe or the number of a footnote stands beside a word, not in it."""

_WITHOUT_SPACES = (
    (0x0E00, 0x109F),  # Thai, Lao, Tibetan, Myanmar
    (0x1100, 0x11FF),  # Hangul, whose particles follow a name at once
    (0x1780, 0x17FF),  # Khmer
    (0x2E80, 0xA4CF),  # Han, Kana, Bopomofo, Yi
    (0xA960, 0xA97F),
    (0xAC00, 0xD7FF),
    (0xF900, 0xFAFF),
    (0x20000, 0x3FFFF),
)
_SELECTORS = ((0xFE00, 0xFE0F), (0xE0100, 0xE01EF))
"""Marks that say how the sign before is drawn, such as a heart in colour."""

_ALIKE = {"'": "'’‘ʼ`´", "-": "-‐‑–"}
"""An apostrophe and a hyphen of a name are written in several ways."""

_ESCAPE = rb"\\(?:[abefnrtv0]|x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4})"
_ESCAPE_BEFORE, _ESCAPE_BEHIND = re.compile(_ESCAPE + rb"\Z"), re.compile(_ESCAPE)
_ESCAPED = re.compile(rb"(?:\\{1,8}u[0-9a-fA-F]{4})+")
_SPACE = (
    rb"(?:\s|\xc2[\x85\xa0]|\xe1\x9a\x80|\xe2\x80[\x80-\x8b\xa8\xa9\xaf]|\xe2\x81[\x9f\xa0]|\xe3\x80\x80|\xef\xbb\xbf"
    rb"|\\{1,8}[nrtvf]|\\{1,8}x(?:85|[aA]0)|\\{1,8}u(?:0085|00[aA]0|1680|20(?:0[0-9aAbB]|2[89fF]|5[fF]|60)|3000|[fF][eE][fF][fF])"
    rb"|\\[\n ]|&nbsp;|&#160;|&#x[aA]0;)+"
)
_WINDOW_BYTES = 24
"""How much before a find is decoded: the last letter, with its marks."""


@dataclass(frozen=True, slots=True)
class Needle:
    """A text that is looked for. `first` and `last` are its outer characters: beside a sign, anything may stand."""

    pattern: re.Pattern[bytes]
    first: str
    last: str

    @classmethod
    def of(cls, text: str, *, exact: bool) -> Needle:
        """Return the needle of a text, of one that is no key (`exact`) in capitals and small, too."""
        text = composed(text)
        return cls(re.compile(written(text, exact=exact)), text[0], text[-1])

    def places(self, data: bytes) -> Iterator[tuple[int, int]]:
        """Yield (start, end) of every whole word that is the text."""
        start = 0
        while found := self.pattern.search(data, start):
            begin, end = found.span()
            if _one_word(_before(data, begin), self.first) or _one_word(self.last, _behind(data, end)):
                start = begin + 1
            else:
                yield begin, end
                start = end

    def stands_in(self, data: bytes) -> bool:
        """Whether the text is there."""
        return next(self.places(data), None) is not None


def composed(text: str) -> str:
    """Return a text in Unicode's form NFC, without space around it."""
    return unicodedata.normalize("NFC", text).strip()


def written(text: str, *, exact: bool) -> bytes:
    """Return a pattern of everything as which a composed text may stand in bytes, with any space between its words."""
    return _SPACE.join(b"".join(_letter(c, exact) for c in _clusters(word)) for word in text.split())


def unescaped(data: bytes) -> bytes:
    """Return bytes with JSON's escapes of four digits in them as UTF-8, also those of JSON within JSON."""
    return _ESCAPED.sub(
        lambda run: (
            bytes.fromhex(run[0].replace(b"\\", b"").replace(b"u", b"").decode())
            .decode("utf-16-be", "replace")
            .encode("utf-8", "replace")
        ),
        data,
    )


# ───────────────────────────────────────────────────────────────────────────── how it is written


def _clusters(word: str) -> Iterator[str]:
    """Yield the letters of a word, each with the marks that belong to it."""
    cluster = ""
    for character in word:
        if cluster and unicodedata.category(character)[0] != "M":
            yield cluster
            cluster = ""
        cluster += character
    yield cluster


def _letter(cluster: str, exact: bool) -> bytes:
    forms = {cluster} if exact else {cluster, cluster.lower(), cluster.upper(), *_ALIKE.get(cluster, "")}
    forms = {unicodedata.normalize(kind, form) for form in forms for kind in ("NFC", "NFD")}
    if all(len(form) == 1 and form.isascii() and form.isalnum() for form in forms):
        letters = "".join(sorted(forms)).encode()
        return letters if len(letters) == 1 else b"[%s]" % letters
    return b"(?:%s)" % b"|".join(b"".join(map(_character, form)) for form in sorted(forms))


def _character(character: str) -> bytes:
    """A character in UTF-8 and in the escapes of JSON, YAML, HTML and CSV."""
    raw = re.escape(character.encode("utf-8", "surrogateescape"))
    if character.isascii() and character.isalnum():
        return raw
    found, number = [raw], ord(character)
    units = character.encode("utf-16-be", "surrogatepass").hex()
    found.append(b"".join(rb"\\{1,8}u" + _hex(units[i : i + 4]) for i in range(0, len(units), 4)))
    if number < 0x100:
        found.append(rb"\\{1,8}x" + _hex(f"{number:02x}"))
    found += [b"&#%d;" % number, b"&#[xX]0*%s;" % _hex(f"{number:x}")]
    if number in codepoint2name:
        found.append(b"&%s;" % codepoint2name[number].encode())
    if character in "\"'":  # CSV and YAML write a quote twice
        found += [raw + raw, rb"\\{1,8}" + raw, *([b"&apos;"] if character == "'" else [])]
    if character in "/\\":
        found.append(rb"\\{1,8}" + raw)
    return b"(?:%s)" % b"|".join(found)


def _hex(digits: str) -> bytes:
    return "".join(d if d.isdigit() else f"[{d}{d.upper()}]" for d in digits).encode()


# ───────────────────────────────────────────────────────────────────────────── where a word ends


def _before(data: bytes, start: int) -> str:
    """Return the character that stands before a place, marks of it left out; empty at the beginning."""
    head = data[max(0, start - _WINDOW_BYTES) : start]
    if escape := _ESCAPE_BEFORE.search(head):
        return _meant(escape[0])
    text = head.decode("utf-8", "replace")
    while text and unicodedata.category(text[-1])[0] == "M":
        text = text[:-1]
    return text[-1:]


def _behind(data: bytes, end: int) -> str:
    """Return the character that stands behind a place; empty at the end."""
    tail = data[end : end + 6]
    if escape := _ESCAPE_BEHIND.match(tail):
        return _meant(escape[0])
    return tail.decode("utf-8", "replace")[:1]


def _meant(escape: bytes) -> str:
    """Return the character of an escape; of a letter that stands for a control character, a line break."""
    return chr(int(escape[2:], 16)) if escape[1:2] in b"xu" else "\n"


def _one_word(left: str, right: str) -> bool:
    """Whether two neighbouring characters belong to one word."""
    return all(c and _in_word(c) and not _within(c, _WITHOUT_SPACES) for c in (left, right))


def _in_word(character: str) -> bool:
    kind = unicodedata.category(character)
    return kind in _LETTERS or (kind[0] == "M" and not _within(character, _SELECTORS))


def _within(character: str, ranges: tuple[tuple[int, int], ...]) -> bool:
    return any(first <= ord(character) <= last for first, last in ranges)


__all__ = ["MAX_NEEDLE_BYTES", "Needle", "composed", "unescaped", "written"]
