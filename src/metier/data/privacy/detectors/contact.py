"""E-mail addresses (also `name (at) host`), web addresses (also without a scheme), IP and MAC addresses.

Each find starts from a character that ordinary text seldom has (@, a dot before a top-level domain, two colons) and
grows to the left by a match on the reversed text before it, so that no pattern is tried at every letter.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

from metier.data.privacy.detectors.cue import each
from metier.data.privacy.spans import Span

_LOCAL = re.compile(r"[\w.+%!#$&'*/=?^{}~-]{1,64}")  # on the reversed text before the @
_HOST = re.compile(r"(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,6}[^\W\d_]{2,24}|\[?(?:\d{1,3}\.){3}\d{1,3}\]?")
_AT = re.compile(r"@")
_SPELT_AT = re.compile(r"\s{0,2}[\[({<]\s?at\s?[\])}>]\s{0,2}|\sat\s(?=[\w-]{1,63}\sdot\s)", re.IGNORECASE)
_SPELT_GATE = re.compile(r"[\[({<]\s?[Aa][Tt]|\s[Dd][Oo][Tt]\s")
_SPELT_HOST = re.compile(
    r"[^\W_][\w-]{0,62}(?:(?:\.|\s?[\[({<]\s?dot\s?[\])}>]\s?|\sdot\s)[^\W_][\w-]{0,62}){1,4}", re.IGNORECASE
)

_DOMAINS = (
    "com|org|net|edu|gov|mil|int|info|biz|name|pro|mobi|app|dev|cloud|online|site|shop|store|tech|blog|news|club|xyz"
    "|page|link|live|life|world|today|space|website|agency|media|health|bank|care|clinic|email|group|solutions|services"
    "|systems|network|digital|studio|design|software|company|global|museum|jobs|travel|aero|coop|asia|africa|london"
    "|berlin|paris|wiki|top|vip|icu|ly|io|ai|co|tv|cc|gg|fm|sh|eu|uk|de|fr|es|pt|nl|lu|ch|ie|dk|se|fi|ee|lv|lt|pl|cz|sk"
    "|hu|ro|bg|gr|cy|mt|hr|si|rs|ba|mk|al|ua|by|ru|su|ge|az|kz|uz|tr|il|ae|sa|qa|kw|jo|lb|eg|ma|tn|dz|ng|gh|ke|tz|ug|za"
    "|zw|pk|bd|lk|np|mm|th|vn|kh|my|sg|id|ph|cn|hk|tw|jp|kr|mn|au|nz|fj|ca|mx|gt|cr|pa|cu|jm|tt|ve|ec|pe|bo|cl|ar|uy|py"
    "|br|gl|fo"
)
_WORDS = "|in|it|is|at|be|me|no|to|so|us|am|do|as|my|pro|name|life|live|world|today|top|news|group|care|page|link|space"
_DOTTED = re.compile(rf"\.(?:{_DOMAINS}{_WORDS})(?![\w@-])(?!\.[^\W_])", re.IGNORECASE)
_AMBIGUOUS = frozenset(_WORDS.strip("|").split("|"))
"""Top-level domains that are words: `end.In` is two sentences without a space between them, not a host."""
_LABELS = re.compile(r"[\w.-]{1,253}")  # on the reversed text before the dot
_TAIL = re.compile(r"(?::\d{1,5})?(?:[/?#][^\s<>\"'“”‘’]{0,2000})?")
_SCHEME = re.compile(
    r"(?:https?|ftps?|sftp|wss?|ssh|file|mailto)://[^\s<>\"“”]{1,2000}|\bwww\d?\.[^\s<>\"“”]{3,2000}", re.I
)
_CLOSING = ".,;:!?)]}'\"*>…"

_IPV4 = re.compile(
    r"(?<![\w.])(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)(?::\d{1,5}|/\d{1,2})?(?![\w]|\.\d)"
)
_IPV6 = re.compile(
    r"(?<![\w:.])(?=[0-9A-Fa-f]{0,4}:[0-9A-Fa-f:]*:)[0-9A-Fa-f:]{3,39}(?:(?<=:)(?:\d{1,3}\.){3}\d{1,3})?"
)
_ZONE = re.compile(r"%[\w.-]{1,20}|/\d{1,3}")
_MAC = re.compile(
    r"(?<![\w:-])[0-9A-Fa-f]{2}([:-])(?:[0-9A-Fa-f]{2}\1){4}[0-9A-Fa-f]{2}(?![\w:-])|(?<![\w.])"
    r"(?:[0-9a-f]{4}\.){2}[0-9a-f]{4}(?![\w.])",
    re.I,
)


def find(text: str) -> Iterator[Span]:
    """Yield every e-mail, web, IP and MAC address."""
    if "@" in text:
        yield from _emails(text, _AT)
    if _SPELT_GATE.search(text):
        yield from _emails(text, _SPELT_AT)
    if "://" in text or "www" in text or "WWW" in text or "Www" in text:
        yield from _schemes(text)
    num_dots = text.count(".")
    if num_dots:
        yield from _urls(text)
    if num_dots >= 3:
        for found in each(_IPV4, text):
            yield Span(*found.span(), "IP")
    num_colons = text.count(":")
    if num_colons >= 2:
        yield from _ipv6(text)
    if num_colons >= 5 or num_dots >= 2 or text.count("-") >= 5:
        for found in _MAC.finditer(text):
            yield Span(*found.span(), "DEVICE")


def _emails(text: str, pattern: re.Pattern[str]) -> Iterator[Span]:
    for at in pattern.finditer(text):
        spelt = at[0] != "@"
        local = _LOCAL.match(text[max(0, at.start() - 64) : at.start()][::-1])
        host = (_SPELT_HOST if spelt else _HOST).match(text, at.end(), at.end() + 255)
        if local is None or host is None:
            continue
        start = at.start() - local.end()
        while start < at.start() and text[start] in ".'*=/?{":
            start += 1
        if start < at.start():
            yield Span(start, host.end(), "EMAIL")


def _schemes(text: str) -> Iterator[Span]:
    for found in _SCHEME.finditer(text):
        yield Span(found.start(), _trimmed(text, found.start(), found.end()), "URL")


def _urls(text: str) -> Iterator[Span]:
    for dot in _DOTTED.finditer(text):
        labels = _LABELS.match(text[max(0, dot.start() - 253) : dot.start()][::-1])
        if labels is None:
            continue
        start = dot.start() - labels.end()
        while start < dot.start() and text[start] in ".-_":
            start += 1
        tail = _TAIL.match(text, dot.end())
        end = tail.end() if tail else dot.end()
        name = text[start : dot.start()]
        if not name or text[start - 1 : start] in ("@", "/") or ".." in name:
            continue
        if dot[0][1:].lower() in _AMBIGUOUS and not (
            end > dot.end() or "." in name or (dot[0].islower() and "-" in name)
        ):
            continue
        if dot[0][1:2].isupper() and not dot[0][1:].isupper():
            continue  # `word.In` and `word.Com`: a missing space
        yield Span(start, _trimmed(text, start, end), "URL")


def _trimmed(text: str, start: int, end: int) -> int:
    """Return the end of an address without the punctuation of the sentence around it."""
    while end > start + 1 and text[end - 1] in _CLOSING:
        if text[end - 1] == ")" and text.count("(", start, end) >= text.count(")", start, end):
            break
        end -= 1
    return end


def _ipv6(text: str) -> Iterator[Span]:
    for found in _IPV6.finditer(text):
        value, end = found[0], found.end()
        if value.endswith(":") and not value.endswith("::"):
            value, end = value[:-1], end - 1
        if text[end : end + 1].isalnum() or (sum(c.isalnum() for c in value) < 3 and value != "::1"):
            continue
        try:
            ipaddress.IPv6Address(value)
        except ValueError:
            continue
        zone = _ZONE.match(text, end)
        yield Span(found.start(), zone.end() if zone else end, "IP")
