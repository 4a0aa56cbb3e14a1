"""Surrogates: invented values of the same form in place of found ones. A name stays a name, a phone a phone.

Every surrogate is drawn at random and remembered in a vault; none is computed from the value it stands for, since a
keyed hash of a name is no surrogate under Safe Harbor. The same value, case and blanks aside, has the same surrogate
wherever it stands; two values never share one. Names and places are replaced word by word, so that `Mr. Kowal` after
`Jan Kowal` is still the same person. Dates keep their year and nothing else; a shifted date would still be a date. An
age is no identifier but over 89: those become `90+`, a younger one in a column its ten of years.

Left out: the gender of a first name, and languages' endings; invented names have neither.
"""

from __future__ import annotations

import random
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from metier.data.privacy import lexicon as lex
from metier.data.privacy.columns import kept_year, tens
from metier.data.privacy.detectors.checksums import luhn
from metier.data.privacy.spans import Span
from metier.data.privacy.words import share

_ONSETS = [
    "b",
    "br",
    "c",
    "d",
    "dr",
    "f",
    "g",
    "gr",
    "h",
    "j",
    "k",
    "kl",
    "l",
    "m",
    "n",
    "p",
    "pr",
    "r",
    "s",
    "st",
    "t",
    "tr",
    "v",
    "w",
    "z",
]
_VOWELS = ("a", "e", "i", "o", "u", "ai", "ea", "io")
_ENDS = ("", "", "n", "r", "l", "s", "k", "m", "nd", "rt", "x")
_SCRIPTS = (
    ("абвгдежзиклмнопрстуфхцчш", re.compile(r"[\u0400-\u04ff]")),
    ("αβγδεζηθικλμνξοπρστυφχψω", re.compile(r"[\u0370-\u03ff\u1f00-\u1fff]")),
    ("אבגדהוזחטיכלמנסעפצקרשת", re.compile(r"[\u0590-\u05ff]")),
    ("ابتثجحخدذرزسشصضطظعغفقكلمنهوي", re.compile(r"[\u0600-\u06ff]")),
    ("가나다라마바사아자차카타파하고노도로모보소오조호", re.compile(r"[\uac00-\ud7af]")),
    ("あいうえおかきくけこさしすせそたちつてとなにぬねの", re.compile(r"[\u3040-\u30ff]")),
    ("安本成春大德方光海和金林明平青山石田文西小新永中", re.compile(r"[\u4e00-\u9fff]")),
)
_WORD = re.compile(r"[^\W\d_]+")
_TOKEN = re.compile(r"[^\W_]+")
_EXTENSION = re.compile(r"(?<![^\W\d_])(?:extension|ext|x)(?=[\s.:]{0,3}\d)", re.IGNORECASE)
_NUMBER = re.compile(r"[0-9]{1,4}")
_HIGH_AGE = re.compile(r"ninety|hundred", re.IGNORECASE)
_KEPT = lex.TITLES | lex.PARTICLES | lex.STREETS | lex.UNITS | lex.ORGANIZATION_ENDINGS | lex.INITIALS_SUFFIX
_WORDED = frozenset(("PERSON", "ORGANIZATION", "ADDRESS", "LOCATION", "COUNTRY", "STATE"))
TRIES = 1000


@dataclass(slots=True)
class Vault:
    """What reverses surrogates: the seed of the draws, and kind → folded value → (surrogate, value as it stood).

    Whoever has it can re-identify; without it nobody can. See vault.py for its file.
    """

    seed: bytes
    entries: dict[str, dict[str, tuple[str, str]]] = field(default_factory=dict)
    num_drawn: int = 0
    taken: set[str] = field(default_factory=set)
    """Surrogates and originals, folded: what no new surrogate may be. Of the short numbers of addresses, of which there
    are too few, the surrogates alone, under PART."""

    def __post_init__(self) -> None:
        for kind, known in self.entries.items():
            for key, (made, _) in known.items():
                self.taken |= {key, made.lower(), f"{kind}\0{made.lower()}"} if kind == "PART" else {key, made.lower()}


def replace(text: str, spans: Sequence[Span], vault: Vault, telling: int | None = None) -> str:
    """Return the text with a surrogate for every span; new ones are drawn into the vault.

    Args:
        text: the text that `spans` were found in.
        spans: in order, none overlapping (engine.detect).
        vault: changed in place.
        telling: the last year that may not stay (columns.telling_year).
    """
    parts, end = [], 0
    for span in spans:
        parts += [text[end : span.start], surrogate(text[span.start : span.end], span.kind, vault, telling)]
        end = span.end
    return "".join([*parts, text[end:]])


def surrogate(value: str, kind: str, vault: Vault, telling: int | None = None) -> str:
    """Return what stands for a found value: a remembered surrogate, or a new one."""
    if kind == "DATE":
        return kept_year(value, telling) or "[DATE]"
    if kind == "AGE":
        return _age(value)
    if kind in _WORDED:
        return _TOKEN.sub(lambda m: _part(m[0], vault), value)
    return _drawn(value, kind, vault, lambda rng: _of_kind(value, kind, rng))


def remembered(value: str, kind: str, vault: Vault) -> str | None:
    """Return what stands for a value, as `surrogate` would, but draw nothing: None where a part of it has none."""
    if kind not in _WORDED:
        return _entry(value, kind, vault)
    parts = {word: word if _stays(word) else _entry(word, _kind_of(word), vault) for word in _TOKEN.findall(value)}
    if not parts or None in parts.values():
        return None
    return _TOKEN.sub(
        lambda m: _in_case(str(parts[m[0]]), m[0]) if _kind_of(m[0]) == "WORD" else str(parts[m[0]]), value
    )


def reserve(values: Iterable[str], vault: Vault) -> None:
    """Keep values from being drawn: no surrogate may be what somebody else is called in the same column."""
    vault.taken.update(map(_folded, values))


def _part(word: str, vault: Vault) -> str:
    """Return the surrogate of one word or number of a name or an address."""
    if _stays(word):
        return word
    if _kind_of(word) == "WORD":
        return _in_case(_drawn(word, "WORD", vault, lambda rng: _invented(word.lower(), rng)), word)
    return _drawn(word, "PART", vault, lambda rng: _scrambled(word, rng), unique=len(word) > 4)


def _stays(word: str) -> bool:
    return word.lower() in _KEPT or (word.isupper() and word in lex.STATE_CODES)


def _kind_of(word: str) -> str:
    """Return the kind under which the vault has a word or number of a name or an address."""
    return "WORD" if word.isalpha() and len(word) > 1 else "PART"


def _entry(value: str, kind: str, vault: Vault) -> str | None:
    found = vault.entries.get(kind, {}).get(_folded(value))
    return found[0] if found else None


def _folded(value: str) -> str:
    return " ".join(value.lower().split())


def _drawn(value: str, kind: str, vault: Vault, make: Callable[[random.Random], str], *, unique: bool = True) -> str:
    """Return the surrogate of a value; `unique`: no value and no other surrogate of any kind, else none of its kind."""
    key = _folded(value)
    known = vault.entries.setdefault(kind, {})
    if key in known:
        return known[key][0]
    vault.taken.add(key)
    kinds = "" if unique else f"{kind}\0"
    for extra in range(TRIES):
        vault.num_drawn += 1
        made = make(random.Random(vault.seed + vault.num_drawn.to_bytes(8, "big")))
        made += str(extra) if extra > TRIES // 2 else ""  # a short form has run out of values
        if made.lower() != key and kinds + made.lower() not in vault.taken:
            break
    vault.taken |= {made.lower(), f"{kind}\0{made.lower()}"} if kind == "PART" else {made.lower()}
    known[key] = (made, value)
    return made


def _of_kind(value: str, kind: str, rng: random.Random) -> str:
    if kind == "EMAIL":
        return f"{_invented('mail', rng)}.{_invented('mail', rng)}@example.org"
    if kind == "URL":
        return f"https://example.org/{_invented('page', rng)}"
    if kind == "IP":
        if ":" in value:
            return "2001:db8:" + ":".join(f"{rng.randrange(4096, 65536):x}" for _ in range(6))
        return ".".join(["10", *(str(rng.randrange(1, 255)) for _ in range(3))])
    if kind in ("PHONE", "FAX"):  # `ext.` and `x` stay, all other letters do not
        parts, end = [], 0
        for word in _EXTENSION.finditer(value):
            parts += [_scrambled(value[end : word.start()], rng), word[0]]
            end = word.end()
        return "".join([*parts, _scrambled(value[end:], rng)])
    made = _scrambled(value, rng)
    if kind == "CARD" and any(map(str.isdecimal, made)):
        last = max(i for i, c in enumerate(made) if c.isdigit())
        for digit in "0123456789":
            right = made[:last] + digit + made[last + 1 :]
            if luhn(re.sub(r"\D", "", right)):
                return right
    return made


def _scrambled(value: str, rng: random.Random) -> str:
    """Return the value with every digit and letter drawn anew; signs, case and a leading zero or plus stay.

    A letter of a script that none is drawn from becomes a Latin one; the accents of letters go with them.
    """
    made = []
    for place, c in enumerate(value):
        if c.isalpha():
            made.append(_letter(c, rng))
        elif c.isnumeric():
            made.append("0" if c == "0" and place == 0 else rng.choice("123456789" if place == 0 else "0123456789"))
        elif not unicodedata.category(c).startswith("M"):
            made.append(c)
    return "".join(made)


def _letter(like: str, rng: random.Random) -> str:
    """Return a letter of the script of another, in its case."""
    if not like.isascii():
        for letters, script in _SCRIPTS:
            if script.search(like):
                made = rng.choice(letters)
                return made.upper() if like.isupper() else made
    return rng.choice("ABCDEFGHJKLMNPRSTUVWXYZ" if like.isupper() else "abcdefghjkmnprstuvwxyz")


def _age(value: str) -> str:
    """Return `90+` for an age over 89, in digits or words, and the ten of years of a younger one."""
    found = _NUMBER.search(value)
    if found:
        return tens(int(found[0]))
    return "90+" if _HIGH_AGE.search(value) else "[AGE]"


def _invented(word: str, rng: random.Random) -> str:
    """Return a word that nobody is called and that means nothing, in the script of the given one, small."""
    for letters, script in _SCRIPTS:
        if script.search(word):
            return "".join(rng.choice(letters) for _ in range(max(2, len(word))))
    while True:
        syllables = [rng.choice(_ONSETS) + rng.choice(_VOWELS) for _ in range(rng.choice((2, 2, 3)))]
        made = "".join(syllables) + rng.choice(_ENDS)
        if share(made) is None:  # else `hero` and `data` would be read as words, and not be found again
            return made


def _in_case(made: str, like: str) -> str:
    if like.isupper():
        return made.upper()
    return made.capitalize() if like[0].isupper() else made
