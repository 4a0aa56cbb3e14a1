"""Text of documents: PDF (pypdf), Word (.docx), HTML, Markdown. A row per page, or per file where there are no pages.

Every row has `text`, `file` and, where the document tells, `page` (from 1) and `title`: they stay in the example's
meta. Documents come from anywhere, so nothing in them is followed: no link, script, macro, external entity or document
type; sizes are bounded before anything is unpacked. What cannot be read goes to quarantine with its reason, page by
page.

Left out: text in pictures (such pages are quarantined as `no-text`), the order of columns beyond what the PDF says,
words that a line end cuts, tables as tables; headers, footnotes and comments of Word files; .doc.
"""

from __future__ import annotations

import io
import logging
import re
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO
from xml.parsers import expat

from metier.core.extras import need
from metier.data.markup import plain_text, title_of
from metier.data.rows import BadRow, Row, flaw
from metier.data.unpacking import read_whole

MAX_DOCUMENT_BYTES = 256 * 1024 * 1024
MAX_XML_BYTES = 128 * 1024 * 1024
"""A Word file whose text unpacks to more is refused: real ones hold a few megabytes."""
MAX_PAGES = 50_000

_OLE = b"\xd0\xcf\x11\xe0"
_WORD = ("wordprocessingml/2006/main", "ooxml/wordprocessingml/main")
_CHARSET = re.compile(rb"""<meta[^<>]{0,200}?charset\s*=\s*["']?([A-Za-z0-9_:.-]{1,40})""", re.IGNORECASE)
_ENCODINGS = re.compile(
    r"utf-?8|us-ascii|iso-8859-\d+|windows-125\d|koi8-[ru]|shift_jis|euc-(?:jp|kr)|gb18030|gbk|big5"
)


def read_pdf(file: BinaryIO, name: str) -> Iterator[Row | BadRow]:
    """Yield the pages of a PDF that have text; pages without text or picture are skipped.

    Raises:
        MachineError: E450, without pypdf.
    """
    pypdf = need("pypdf", "read PDF files")
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # its warnings quote the file
    data = read_whole(file, MAX_DOCUMENT_BYTES)
    if data is None:
        yield _too_long(name)
        return
    try:
        reader = pypdf.PdfReader(io.BytesIO(data))
        locked = reader.is_encrypted and not reader.decrypt("")  # many forbid printing alone and open without one
        num_pages = 0 if locked else len(reader.pages)
        title = None if locked else _title(reader)
    except Exception as error:  # pypdf raises errors of many kinds on broken files
        locked = type(error).__name__ == "DependencyError"
        if not locked:
            yield _refused(name, "damaged-document", "the PDF is damaged or no PDF", data)
            return
    if locked:
        yield _refused(name, "encrypted", "the PDF needs a password", data)
        return
    for number in range(1, min(num_pages, MAX_PAGES) + 1):
        place = f"{name}:{number}"
        try:
            page = reader.pages[number - 1]
            text, pictured = page.extract_text(), _pictured(page)
        except Exception:
            yield BadRow(place, "damaged-page", "the page cannot be read", b"")
            continue
        if text.strip():
            yield _row(place, {"text": text, "file": name, "page": number, **({"title": title} if title else {})})
        elif pictured:
            yield BadRow(place, "no-text", "the page is a picture: it needs text recognition", b"")
    if num_pages > MAX_PAGES:
        yield BadRow(f"{name}:{MAX_PAGES + 1}", "too-long", f"the PDF has more than {MAX_PAGES:,} pages", b"")


def read_docx(file: BinaryIO, name: str) -> Iterator[Row | BadRow]:
    """Yield the pages of a Word file as far as it marks them, else its text as one row."""
    data = read_whole(file, MAX_DOCUMENT_BYTES)
    if data is None:
        yield _too_long(name)
        return
    if data.startswith(_OLE):
        yield _refused(name, "encrypted", "the file is protected by a password, or of the old .doc format", data)
        return
    try:
        xml = _member(data, "word/document.xml")
        pages = _Pages().read(xml)
    except (zipfile.BadZipFile, KeyError, zlib.error, EOFError, OSError, NotImplementedError, ValueError, expat.error):
        yield _refused(name, "damaged-document", "the file is damaged or no Word document", data)
        return
    except RuntimeError:  # what zipfile raises for an encrypted member
        yield _refused(name, "encrypted", "the file is protected by a password", data)
        return
    except _Hostile as error:
        yield _refused(name, "hostile-document", str(error), data)
        return
    for number, text in enumerate(pages, start=1):
        value: dict[str, Any] = {"text": text, "file": name}
        if len(pages) > 1:
            value["page"] = number
        if text.strip():
            yield _row(f"{name}:{number}" if len(pages) > 1 else name, value)


def read_html(file: BinaryIO, name: str) -> Iterator[Row | BadRow]:
    """Yield the text of a page without what stands around it, in the encoding that it declares, else UTF-8."""
    data = read_whole(file, MAX_DOCUMENT_BYTES)
    if data is None:
        yield _too_long(name)
        return
    text = _decoded(data)
    if defect := flaw(text):
        yield _refused(name, *defect, data)
        return
    said = plain_text(text, main=True)
    if said.strip():
        title = title_of(text)
        yield _row(name, {"text": said, "file": name, **({"title": title} if title else {})})
    elif data.strip():
        yield _refused(name, "no-text", "the page holds no text of its own", data)


def read_markdown(file: BinaryIO, name: str) -> Iterator[Row | BadRow]:
    """Yield a Markdown file as it is written: its marks are text that a model should know."""
    data = read_whole(file, MAX_DOCUMENT_BYTES)
    if data is None:
        yield _too_long(name)
    elif data:
        text = data.decode("utf-8", "surrogateescape")
        defect = flaw(text)
        yield _refused(name, *defect, data) if defect else Row({"text": text, "file": name}, name)


# ───────────────────────────────────────────────────────────────────────────── pieces


def _refused(place: str, reason: str, what: str, data: bytes) -> BadRow:
    return BadRow(place, reason, what, data)


def _too_long(name: str) -> BadRow:
    return BadRow(name, "too-long", f"the file is larger than {MAX_DOCUMENT_BYTES >> 20} MB", b"")


def _row(place: str, value: dict[str, Any]) -> Row | BadRow:
    defect = flaw(value)
    if defect is None:
        return Row(value, place)
    return BadRow(place, *defect, str(value["text"]).encode("utf-8", "backslashreplace"))


def _title(reader: Any) -> str | None:
    try:
        found = str(reader.metadata.title or "").strip() if reader.metadata else ""
    except Exception:
        return None
    return found[:500] or None if flaw(found) is None else None


def _pictured(page: Any) -> bool:
    """Say whether a page has something drawn from outside its text, such as a scanned picture."""
    resources = page.get("/Resources")
    return bool(resources is not None and resources.get_object().get("/XObject"))


def _decoded(data: bytes) -> str:
    """Return the text in the encoding that the page declares, else in UTF-8; foreign bytes as lone surrogates."""
    found = _CHARSET.search(data[:4096])
    declared = found[1].decode("ascii").lower() if found else "utf-8"
    encoding = declared if _ENCODINGS.fullmatch(declared) else "utf-8"
    return data.decode(encoding, "surrogateescape").removeprefix("\ufeff")


class _Hostile(Exception):
    """The document holds something that no honest one does."""


def _member(data: bytes, name: str) -> bytes:
    """Return one file of an archive, unpacked in memory up to MAX_XML_BYTES; no path of the archive is ever used."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive, archive.open(name) as member:
        xml = member.read(MAX_XML_BYTES + 1)
    if len(xml) > MAX_XML_BYTES:
        raise _Hostile(f"its text unpacks to more than {MAX_XML_BYTES >> 20} MB")
    return xml


class _Pages:
    """Collects the text of WordprocessingML, page by page, without a tree: depth and size cost nothing."""

    def __init__(self) -> None:
        self.pages: list[list[str]] = [[]]
        self._in_text = False
        self._skipped = 0

    def read(self, xml: bytes) -> list[str]:
        """Return the text of each page.

        Raises:
            _Hostile: the XML has a document type, which Word never writes and entities need.
            ExpatError: it is no XML.
        """
        parser = expat.ParserCreate(namespace_separator=" ")
        parser.buffer_text = True
        parser.StartDoctypeDeclHandler = self._doctype
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._characters
        parser.Parse(xml, True)
        return ["".join(parts).strip("\n") for parts in self.pages]

    def _doctype(self, *_: object) -> None:
        raise _Hostile("its XML has a document type declaration")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        space, _, tag = name.rpartition(" ")
        if tag == "Fallback" or self._skipped:  # the same content once more, for programs that know less
            self._skipped += 1
        elif not space.endswith(_WORD):
            return
        elif tag == "t":
            self._in_text = True
        elif tag == "tab":
            self.pages[-1].append("\t")
        elif tag == "lastRenderedPageBreak" or (tag == "br" and "page" in attributes.values()):
            if any(part.strip() for part in self.pages[-1]) and len(self.pages) < MAX_PAGES:
                self.pages.append([])
        elif tag in ("br", "cr"):
            self.pages[-1].append("\n")

    def _end(self, name: str) -> None:
        space, _, tag = name.rpartition(" ")
        if self._skipped:
            self._skipped -= 1
        elif not space.endswith(_WORD):
            return
        elif tag == "t":
            self._in_text = False
        elif tag == "p":
            self.pages[-1].append("\n")
        elif tag == "tc" and self.pages[-1] and self.pages[-1][-1] == "\n":
            self.pages[-1][-1] = "\t"
        elif tag == "tr":
            self.pages[-1].append("\n")

    def _characters(self, text: str) -> None:
        if self._in_text and not self._skipped:
            self.pages[-1].append(text)
