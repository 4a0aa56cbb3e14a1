"""HTML to plain text: what a reader of the page would read.

A scanner of our own rather than `html.parser`: that one takes `a <b && c> d` for a tag, forgets how an unknown end tag
was written, and needs quadratic time for unclosed comments. Here a tag is a known HTML element with well-formed
attributes; everything else that looks like one (`a < b`, `List<String>`, `<stdio.h>`) is text and stays, and so does
Markdown code, in fences or backticks. Nothing is dropped up to the end of the text because something is not closed.
Time is linear in the text.

Left out: CSS (`display: none`), frames, what scripts would write.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.entities import html5

LINK_DENSITY = 0.5
"""A block of which links hold a larger share of the characters is navigation (Kohlschütter et al., 2010)."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_BLOCKS = _words(
    "address article aside blockquote body caption center dd details dialog dir div dl dt fieldset figcaption figure "
    "footer form frameset h1 h2 h3 h4 h5 h6 head header hgroup hr html legend li main menu nav ol optgroup option p "
    "pre search section select summary table tbody tfoot thead title tr ul"
)
_INLINE = _words(
    "a abbr acronym applet area audio b base basefont bdi bdo big br button canvas cite code col colgroup data "
    "datalist del dfn em embed font frame i iframe img input ins kbd label link map mark marquee meta meter nobr "
    "noframes noscript object output param picture progress q rp rt ruby s samp slot small source span strike strong "
    "sub sup svg td template textarea th time track tt u var video wbr"
)
_RAW = _words("script style template svg")
"""Elements whose content nobody reads."""
_AROUND = _words("nav header footer aside form button select menu dialog iframe noscript")
"""Elements that stand around the text of a page, not in it."""
_PARAGRAPHS = _words("p h1 h2 h3 h4 h5 h6 blockquote pre table ul ol dl section article")
_KNOWN = _BLOCKS | _INLINE | _RAW

# Possessive quantifiers: a `<` that begins no tag is given up after one look at what follows it.
_ATTRIBUTE = r"""\s++[A-Za-z_:@][\w:.@-]*+(?:\s*+=\s*+(?:"[^"]*+"|'[^']*+'|[^\s"'=<>`]++))?+"""
_MARK = re.compile(
    rf"""(?P<fence>^[ ]{{0,3}}(?P<ticks>```+|~~~+))"""
    rf"""|(?P<code>`[^`\n]++`)"""
    rf"""|<(?P<end>/?)(?P<name>[A-Za-z][A-Za-z0-9]*+)(?:{_ATTRIBUTE})*+\s*+/?>"""
    rf"""|(?P<comment><!--)"""
    rf"""|(?P<doctype><!DOCTYPE\b[^<>]*+>)"""
    rf"""|(?P<xml><\?xml\b[^<>]*+>)"""
    rf"""|&(?P<entity>\#[0-9]{{1,7}}|\#[xX][0-9A-Fa-f]{{1,6}}|[A-Za-z][A-Za-z0-9]{{1,31}});""",
    re.MULTILINE | re.IGNORECASE,
)
_CLOSING = {name: re.compile(rf"</{name}\s*+>", re.IGNORECASE) for name in ("script", "style")}
_SPACE = re.compile(r"[ \t\r\n\f]+")
_EMPTY_LINES = re.compile(r"\n{3,}")
_ANY_WORD = re.compile(r"\w")


@dataclass(slots=True)
class _Token:
    """A piece of the text: `text`, or a tag (`name`, and whether it ends an element)."""

    text: str = ""
    name: str = ""
    end: bool = False
    gone: bool = False
    verbatim: bool = False


@dataclass(slots=True)
class _Block:
    """Text between two line breaks: its parts, and how many of its characters stand in links."""

    parts: list[str] = field(default_factory=list)
    num_characters: int = 0
    num_linked: int = 0
    before: str = "\n"


def plain_text(text: str, *, main: bool = False) -> str:
    """Return the text without markup; a text that has none comes back as it is.

    Scripts, styles and comments go with their content; block elements become line breaks, table cells tabs; entities
    that end with a semicolon become their characters.

    Args:
        text: a page, or a text with tags in it.
        main: also drop what stands around the text of a page: `nav`, `header`, `footer`, `aside`, `form` and the like,
            and blocks that consist mostly of links.
    """
    tokens = list(_tokens(text))
    if all(token.verbatim for token in tokens):
        return text
    _drop(tokens, _RAW | _AROUND if main else _RAW)
    if not any(token.name in _BLOCKS for token in tokens):  # a plain text with a few tags: its line breaks are meant
        return "".join("\n" if token.name == "br" else token.text for token in tokens if not token.gone)
    blocks = [block for block in _blocks(tokens) if not (main and _navigation(block))]
    lines = "".join(block.before + "".join(block.parts).strip(" \n") for block in blocks if _filled(block))
    return _EMPTY_LINES.sub("\n\n", lines).strip("\n")


def title_of(text: str) -> str | None:
    """Return what a page's `title` element says, or None."""
    found = re.search(r"<title\b[^<>]{0,200}>([^<]{1,1000})</title", text[:1_000_000], re.IGNORECASE)
    return _SPACE.sub(" ", html.unescape(found[1])).strip() or None if found else None


# ───────────────────────────────────────────────────────────────────────────── pieces


def _tokens(text: str) -> Iterator[_Token]:
    """Yield the text in pieces. One that was not changed in any way is `verbatim`."""
    position = 0
    unclosed: dict[str, int] = {}  # what nothing closes any more, looked for once; of fences the shortest
    while mark := _MARK.search(text, position):
        start, end = mark.span()
        token = _Token(verbatim=True)
        if mark["fence"]:
            end = _end_of_fence(text, mark, unclosed)
            token.text = text[start:end]
        elif mark["comment"]:
            end = text.find("-->", end) if "-->" not in unclosed else -1
            if end < 0:
                unclosed["-->"] = 0
                end = start + 4
                token.text = text[start:end]
            else:
                end, token = end + 3, _Token()
        elif mark["name"]:
            token, end = _tag(text, mark, unclosed)
        elif mark["entity"]:
            token.text = _character(mark["entity"])
            token.verbatim = token.text == mark[0]
        elif mark["code"]:
            token.text = mark[0]
        else:
            token = _Token()
        if position < start:
            yield _Token(text[position:start], verbatim=True)
        yield token
        position = end
    if position < len(text):
        yield _Token(text[position:], verbatim=True)


def _tag(text: str, mark: re.Match[str], unclosed: dict[str, int]) -> tuple[_Token, int]:
    """Return the token of what looks like a tag, and where it ends: for scripts and styles, behind their end tag."""
    name = mark["name"].lower()
    if name not in _KNOWN:
        return _Token(mark[0], verbatim=True), mark.end()
    if name in ("script", "style") and not mark["end"]:
        closing = None if name in unclosed else _CLOSING[name].search(text, mark.end())
        if closing:
            return _Token(), closing.end()
        unclosed[name] = 0
        return _Token(mark[0], verbatim=True), mark.end()  # somebody writes about it
    return _Token(name=name, end=bool(mark["end"])), mark.end()


def _end_of_fence(text: str, mark: re.Match[str], unclosed: dict[str, int]) -> int:
    """Return where a fenced block ends: behind the line that closes it, or behind its first line where none does."""
    sign, length = mark["ticks"][0], len(mark["ticks"])
    if length >= unclosed.get(sign, length + 1):
        return mark.end()
    closing = re.compile(rf"^[ ]{{0,3}}{re.escape(mark['ticks'])}[`~]*[ \t]*$", re.MULTILINE)
    line_end = text.find("\n", mark.end())
    found = closing.search(text, line_end) if line_end >= 0 else None
    if found is None:
        unclosed[sign] = length
    return found.end() if found else mark.end()


def _character(entity: str) -> str:
    """Return what an entity stands for; one that is not known stays as it was written."""
    if entity[0] != "#" and f"{entity};" not in html5:
        return f"&{entity};"
    return html.unescape(f"&{entity};")


def _drop(tokens: list[_Token], names: frozenset[str]) -> None:
    """Mark all between the tags of these elements as gone; a tag without its partner takes nothing with it."""
    open_at: dict[str, list[int]] = {}
    spans: list[tuple[int, int]] = []
    for index, token in enumerate(tokens):
        if token.name not in names:
            continue
        if not token.end:
            open_at.setdefault(token.name, []).append(index)
        elif starts := open_at.get(token.name):
            spans.append((starts.pop(), index))
    reach = -1
    for start, end in sorted(spans):
        for index in range(max(start, reach + 1), end + 1):
            tokens[index].gone = True
        reach = max(reach, end)


# ───────────────────────────────────────────────────────────────────────────── lines


def _blocks(tokens: list[_Token]) -> Iterator[_Block]:
    """Yield the text between block elements, white space as a browser shows it."""
    block = _Block()
    in_link = in_pre = 0
    for token in tokens:
        if token.gone:
            continue
        step = -1 if token.end else 1
        if token.name == "a":
            in_link = max(0, in_link + step)
        elif token.name == "br":
            block.parts.append("\n")
        elif token.name in ("td", "th") and not token.end and _filled(block):
            block.parts.append("\t")
        elif token.name in _BLOCKS:
            in_pre = max(0, in_pre + step * (token.name == "pre"))
            yield block
            apart = token.name in _PARAGRAPHS or (not _filled(block) and block.before == "\n\n")
            block = _Block(before="\n\n" if apart else "\n")
        elif token.text:
            shown = token.text if in_pre or token.text.startswith(("```", "~~~")) else _SPACE.sub(" ", token.text)
            if shown.startswith(" ") and (not block.parts or block.parts[-1].endswith((" ", "\n", "\t"))):
                shown = shown if in_pre else shown[1:]
            block.parts.append(shown)
            block.num_characters += len(shown.strip())
            block.num_linked += len(shown.strip()) if in_link else 0
    yield block


def _filled(block: _Block) -> bool:
    return any(part.strip() for part in block.parts)


def _navigation(block: _Block) -> bool:
    """Say whether a block is a menu, a list of links, or a mark without words such as `»`."""
    if not any(map(_ANY_WORD.search, block.parts)):
        return True
    return block.num_linked > LINK_DENSITY * block.num_characters
