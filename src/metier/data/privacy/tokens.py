"""Words and signs of a text, each with one character that says what it is to the rules for names and places.

The string of these characters is what the rules read: a regular expression over classes instead of over letters finds
`number, street word, unit, number` in one pass, however the words are spelt.

    x ordinary, small          S suspect: unknown, or always written with a capital
    X function word, capital   M may be a name: often written with a capital      m the same, opening a sentence
    C c ordinary, capital      I ordinary, capital, opening a sentence or a line
    E never a name             A letters in capitals, like an acronym             i one capital letter, an initial
    T title                    P particle (van, de, bin)                          O ending of an organisation
    R street word              r street word that is also another word            U unit word, u a weak one
    Z code of a state          K country, k state                                 n number, a letters with digits
    & and, or, &               | end of line                                      ! end of sentence
    other signs stand for themselves; whatever else is `;`
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from metier.data.privacy import lexicon as lex
from metier.data.privacy.spans import Span
from metier.data.privacy.words import share, shares

_TOKEN = re.compile(
    r"[Pp]\.\s?[Oo]\.|[^\W\d_]+(?:['’`][^\W\d_]+)*|\d+(?:[^\W\d_]{1,2}(?![^\W_]))?(?![^\W_])|[^\W_]+|\n|[^\w\s]|_"
)
_SIGNS = frozenset(",.#/'()-:&\"")
_ALIKE = {
    "’": "'",
    "–": "-",
    "‐": "-",
    "`": "'",
    "“": '"',
    "”": '"',
    "\n": "|",
    ">": '"',
    "*": '"',
    "•": '"',
    "?": "!",
    "!": "!",
}
_SENTENCE_OPENERS = frozenset('!|:";(')

MAYBE = 0.10
"""Share of capitals from which a word with a capital inside a sentence is taken for a name by itself."""
ALWAYS = 0.70
"""Share of capitals from which a word is a suspect in any case it is written in."""
LONELY = 0.02
"""Share of capitals from which a single capital among small words may be a name."""
OPENING = 0.35
"""Share of capitals from which a word that opens a sentence may be a name."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens of a text: `starts` and `ends` are offsets, `classes` has one character for each; `folded`: no case."""

    text: str
    starts: list[int]
    ends: list[int]
    classes: str
    folded: bool

    def word(self, index: int) -> str:
        """Return a token as it is written."""
        return self.text[self.starts[index] : self.ends[index]]


_MISSING = ("nan", "null")
"""What tables write for a value that is missing: it stands where a region would."""

USUAL = 0.985
"""Share of capitals from which a small word in a text with capitals is a suspect all the same."""
_NOT_NAMES = lex.NEVER_NAMES | lex.FUNCTION | lex.STREETS | lex.UNITS | lex.PARTICLES | lex.COUNTRIES

_cased: dict[str, str] = {}
_folded: dict[str, str] = {}
_MEMO = 100_000


def tokenise(text: str, start: int, end: int, *, folded: bool) -> Tokens:
    """Return the tokens of `text[start:end]` with their classes.

    Args:
        folded: letters carry no case here (all small or all capitals), so that only the word itself can be a suspect.
    """
    memo, judge = (_folded, _fold_class) if folded else (_cased, _class)
    if len(memo) > _MEMO:
        memo.clear()
    starts: list[int] = []
    ends: list[int] = []
    classes: list[str] = []
    opening = True
    for found in _TOKEN.finditer(text, start, end):  # the innermost loop: a microsecond here is a third of the time
        word = found[0]
        kinds = memo.get(word)
        if kinds is None:
            kinds = memo[word] = (2 * judge(word))[:2]
        kind = kinds[opening]
        if kind == ".":
            kind = _stop(classes, ends[-1] - starts[-1] if ends else 0, text, found.end())
        first, last = found.span()
        starts.append(first)
        ends.append(last)
        classes.append(kind)
        opening = kind in _SENTENCE_OPENERS
    joined = "".join(classes)
    if "q" in joined or "Q" in joined:
        joined = _places(text, starts, ends, classes, folded)
    return Tokens(text, starts, ends, joined, folded)


def masked(tokens: Tokens, taken: list[Span]) -> str:
    """Return the classes with `;` where a span lies; the spans are in order and do not overlap."""
    if not taken:
        return tokens.classes
    classes = list(tokens.classes)
    at, total = 0, len(classes)
    for span in taken:
        while at < total and tokens.ends[at] <= span.start:
            at += 1
        while at < total and tokens.starts[at] < span.end:
            classes[at] = ";"
            at += 1
    return "".join(classes)


def _stop(classes: list[str], length: int, text: str, end: int) -> str:
    """Return `.` after an abbreviation, an initial or a number, `!` where a sentence ends."""
    before = classes[-1] if classes else "x"
    if before in "TRrUuiPOn" or (before in "ZASP" and length <= 4) or text[end : end + 1].isalnum():
        return "."
    if before in "SCIM" and text[end : end + 2].strip()[:1].isdigit():
        return "."
    return "!"


def _not_letters(word: str) -> str:
    """Return the class of what is not a plain word: a number, a sign, a code, an abbreviation; else an empty string."""
    first = word[0]
    if first.isdigit():
        return "n" if len(word.lstrip("0123456789")) <= 2 else "a"
    if not first.isalpha():
        return _sign(word)
    if any(map(str.isdigit, word)):
        return "a"
    return "U" if "." in word else ""


def _class(word: str) -> str:
    """Return the class of a word inside a sentence, and, where it differs, the one at its start."""
    if kind := _not_letters(word):
        return kind
    low = _bare(word.lower())
    if word.islower():
        return _small(low)
    if low in lex.COMPASS and len(low) > 2 and low not in _PLACE_FIRST:
        return "CI"
    if len(word) == 1:
        return "E" if word in "IA" else "i"
    if word.isupper():
        if len(word) == 2 and low in lex.FUNCTION:
            return "A"
        if word in lex.STATE_CODES:
            return "Z"
        if low in lex.UNITS or low in lex.STREETS:
            return _street(low)
        if len(word) <= 5 and (word in lex.ACRONYMS or (share(low) is None and word.isascii())):
            return "E" if word in lex.ACRONYMS else "A"
    if low in _PLACE_FIRST:
        return "qQ"
    if low == "st":
        return "r"
    if low in lex.TITLES:
        return "T"
    if low in lex.NEVER_NAMES or low in lex.FUNCTION:
        return "X" if low in lex.FUNCTION else "E"
    if low in lex.STREETS or low in lex.UNITS:
        return _street(low)
    if low in lex.ORGANIZATION_ENDINGS:
        return "O"
    if low in lex.PARTICLES:
        return "C"
    known = share(low)
    if known is None:
        return "S"
    if known >= ALWAYS:
        return "S"
    if known >= OPENING:
        return "Mm" if known < 0.6 else "S"
    if known >= MAYBE:
        return "MI"
    return "cI" if known >= LONELY else "CI"


def class_at_start(word: str) -> str:
    """Return the class of a word that opens a sentence, in a text that has capitals."""
    if not word:
        return "x"
    class_inside(word)
    return _cased[word][1]


def class_inside(word: str) -> str:
    """Return the class of a word inside a sentence, in a text that has capitals."""
    kinds = _cased.get(word)
    if kinds is None:
        kinds = _cased[word] = (2 * _class(word))[:2]
    return kinds[0]


@cache
def usual_capitals() -> frozenset[str]:
    """Return the words that are suspects although they are written small in a text that has capitals."""
    return frozenset(
        word for word, known in shares().items() if known > USUAL and len(word) > 2 and word not in _NOT_NAMES
    )


def _small(low: str) -> str:
    """Return the class of a small word in a text that has capitals."""
    if low in ("and", "or"):
        return "&"
    if low in lex.PARTICLES:
        return "P"
    if low in _MISSING:
        return "Z"
    if low in lex.STREETS or low in lex.UNITS:
        kind = _street(low)
        return kind if kind == "U" or share(low) is None else kind.lower()
    if low in lex.SPOKEN_TITLES:
        return "T"
    known = shares().get(low)
    if known is None:
        return "P" if share(low) is None else "x"
    return "S" if low in usual_capitals() else "x"


def _fold_class(word: str) -> str:
    """Return the class of a word where case says nothing."""
    if kind := _not_letters(word):
        return kind
    low = _bare(word.lower())
    if low in ("and", "or"):
        return "&"
    if low in _MISSING:
        return "z"
    if len(low) == 1:
        return "x" if low in "ia" else "P"
    if low in lex.SPOKEN_TITLES:
        return "T"
    if low in lex.FUNCTION and low not in ("north", "south", "new"):
        return "x"
    if low in _PLACE_FIRST:
        return "q"
    if low in lex.PARTICLES:
        return "P"
    if low in lex.STREETS or low in lex.UNITS:
        return _street(low)
    if low in lex.NEVER_NAMES or low in lex.LOWER_NEVER:
        return "x"
    if low in ("ltd", "inc", "llc", "gmbh", "plc", "corp"):
        return "O"
    if len(low) < 3:
        return "z" if low.upper() in lex.STATE_CODES else "x"
    known = share(low)
    if known is None or known >= ALWAYS:
        return "S"
    return "M" if known >= 0.30 else "C" if known >= 0.03 else "x"


def _street(low: str) -> str:
    if low in lex.UNITS:
        return "U" if low in lex.STRONG_UNITS else "u"
    return "r" if low in lex.WEAK_STREETS else "R"


def _bare(low: str) -> str:
    """Return a word without its genitive."""
    if len(low) > 3 and low[-2] in "'’" and low[-1] == "s":
        return low[:-2]
    return low.replace("’", "'")


def _sign(word: str) -> str:
    sign = _ALIKE.get(word, word)
    return sign if sign in _SIGNS or sign in "|!" else ";"


_FORM = re.compile(lex.COUNTRY_FORMS)
_PLACE_FIRST: dict[str, list[tuple[str, str]]] = {}
for _kind, _names in (("k", lex.US_STATES), ("K", lex.COUNTRIES)):
    for _name in _names:
        _PLACE_FIRST.setdefault(re.split(r"[^\w]", _name)[0], []).append((_name, _kind))
for _form in (
    "democratic",
    "people",
    "people's",
    "islamic",
    "republic",
    "kingdom",
    "federation",
    "federative",
    "commonwealth",
):
    _PLACE_FIRST.setdefault(_form, [])
for _listed in _PLACE_FIRST.values():
    _listed.sort(key=lambda entry: -len(entry[0]))


def _places(text: str, starts: list[int], ends: list[int], classes: list[str], folded: bool) -> str:
    """Return the classes with the words of countries and states marked, the longest name first."""
    index, total = 0, len(classes)
    while index < total:
        if classes[index] not in "qQ":
            index += 1
            continue
        first = _bare(text[starts[index] : ends[index]].lower())
        window = text[starts[index] : starts[index] + 80].lower()
        form = _FORM.match(window)
        offset = form.end() if form else 0
        name = kind = ""
        for listed, its_kind in _PLACE_FIRST.get(re.split(r"[^\w]", window[offset:], maxsplit=1)[0], ()):
            until = offset + len(listed)
            if window.startswith(listed, offset) and not window[until : until + 1].isalpha():
                name, kind = window[:until], its_kind
                break
        if not name:
            word = first
            known = share(word)
            mark = "x" if folded else ("C" if classes[index] == "q" else "I")
            if known is None or known >= ALWAYS:
                mark = "S"
            if word in lex.FUNCTION:
                mark = "x" if folded else "X"
            classes[index] = ("x" if folded else "E") if word in lex.NEVER_NAMES else mark
            index += 1
            continue
        if first in lex.AMBIGUOUS_PLACES and name == first and not _after_cue(text, starts[index]):
            known = share(first)
            kind = "S" if not folded or (known or 1.0) > ALWAYS else "x"
        until = starts[index] + len(name)
        while index < total and starts[index] < until:
            classes[index] = kind
            index += 1
    return "".join(classes)


_CUE = re.compile(
    r"(?:\b(?:in|from|to|of|near|at|via|outside|across|visit(?:ing|ed)?)|,)\s{1,2}(?:the\s)?$", re.IGNORECASE
)


def _after_cue(text: str, start: int) -> bool:
    return bool(_CUE.search(text, max(0, start - 14), start))
