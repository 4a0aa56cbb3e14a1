"""Documents as sources: their text with file and page, and every way in which one can be broken, locked or hostile."""

from __future__ import annotations

import io
import json
import logging
import zipfile
from pathlib import Path
from typing import Any

import pytest

from metier.core import extras
from metier.core.errors import MachineError
from metier.core.project import Project
from metier.core.recipe import Recipe
from metier.core.types import Text
from metier.data import documents
from metier.data.dataset import build
from metier.data.rows import BadRow, Row
from metier.data.source import read_rows

W = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"


def read(path: Path) -> tuple[list[Row], list[tuple[str, str]]]:
    found = list(read_rows(path))
    return [r for r in found if isinstance(r, Row)], [(b.place, b.reason) for b in found if isinstance(b, BadRow)]


def one(path: Path, content: bytes) -> tuple[list[dict[str, Any]], list[tuple[str, str]]]:
    path.write_bytes(content)
    rows, bad = read(path)
    return [r.value for r in rows], bad


# ───────────────────────────────────────────────────────────────────────────── PDF


def pdf(*pages: str, picture: int | None = None, broken: int | None = None) -> bytes:
    """Return a PDF with a line of text per page; one may hold a picture, or a stream that is no stream."""
    kids = " ".join(f"{4 + 2 * i} 0 R" for i in range(len(pages)))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for i, text in enumerate(pages):
        drawn = " /XObject << /Im0 3 0 R >>" if i == picture else ""
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 300 300] /Contents {5 + 2 * i} 0 R"
            f" /Resources << /Font << /F1 3 0 R >>{drawn} >> >>"
        )
        content = f"BT /F1 12 Tf 20 200 Td ({text}) Tj ET" if text else ""
        wrong = " /Filter /NoSuchFilter" if i == broken else ""
        objects.append(f"<< /Length {len(content)}{wrong} >>\nstream\n{content}\nendstream")
    out = "%PDF-1.4\n"
    offsets = []
    for number, body in enumerate(objects, start=1):
        offsets.append(len(out))
        out += f"{number} 0 obj\n{body}\nendobj\n"
    table = "".join(f"{offset:010} 00000 n \n" for offset in offsets)
    size = len(objects) + 1
    start = len(out)
    out += f"xref\n0 {size}\n0000000000 65535 f \n{table}trailer\n<< /Size {size} /Root 1 0 R >>\n"
    return f"{out}startxref\n{start}\n%%EOF\n".encode("latin-1")


needs_pypdf = pytest.mark.skipif(extras.installed("pypdf") is None, reason="pip install 'metier[documents]'")


def locked(content: bytes, password: str) -> bytes:
    from pypdf import PdfReader, PdfWriter

    writer = PdfWriter(clone_from=PdfReader(io.BytesIO(content)))
    writer.add_metadata({"/Title": "A title"})
    writer.encrypt(password, "owner", algorithm="RC4-128")
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


@needs_pypdf
def test_a_pdf_gives_a_row_per_page_that_has_text(tmp_path: Path) -> None:
    found, bad = one(tmp_path / "a.pdf", pdf("First page", "", "Third page"))
    assert found == [
        {"text": "First page", "file": "a.pdf", "page": 1},
        {"text": "Third page", "file": "a.pdf", "page": 3},
    ]
    assert bad == []


@needs_pypdf
def test_a_page_that_is_a_picture_or_broken_is_named_and_the_others_stay(tmp_path: Path) -> None:
    found, bad = one(tmp_path / "a.pdf", pdf("One", "", "Three", "Four", picture=1, broken=2))
    assert [row["page"] for row in found] == [1, 4]
    assert bad == [("a.pdf:2", "no-text"), ("a.pdf:3", "damaged-page")]


@needs_pypdf
def test_a_pdf_with_a_password_is_refused_and_one_that_opens_without_is_read(tmp_path: Path) -> None:
    assert one(tmp_path / "a.pdf", locked(pdf("Secret"), "open sesame")) == ([], [("a.pdf", "encrypted")])
    found, bad = one(tmp_path / "b.pdf", locked(pdf("Open"), ""))
    assert found == [{"text": "Open", "file": "b.pdf", "page": 1, "title": "A title"}] and bad == []


@needs_pypdf
@pytest.mark.parametrize(
    "content",
    [
        b"no PDF at all",
        b"%PDF-1.4\n",
        pdf("x")[:-300],
        pdf("x").replace(b"/Kids [4 0 R]", b"/Kids [2 0 R]"),
        b"%PDF-1.7\n1 0 obj\n" + b"[" * 200_000,
    ],
    ids=["text", "head", "cut", "a page tree that holds itself", "deep"],
)
def test_a_broken_pdf_is_a_bad_row_and_never_more(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        found, bad = one(tmp_path / "a.pdf", content)
    assert len(found) + len(bad) <= 1 and caplog.records == []
    assert {reason for _, reason in bad} <= {"damaged-document", "damaged-page"}


@needs_pypdf
def test_a_compressed_page_that_unpacks_to_gigabytes_is_refused(tmp_path: Path) -> None:
    import zlib

    bomb = zlib.compress(b" " * 200_000_000, 9)
    good = pdf("x", "second")
    start, end = good.index(b"<< /Length"), good.index(b"endstream") + len(b"endstream")
    head = f"<< /Length {len(bomb)} /Filter /FlateDecode >>\nstream\n".encode()
    found, bad = one(tmp_path / "a.pdf", good[:start] + head + bomb + b"\nendstream" + good[end:])
    assert bad == [("a.pdf:1", "damaged-page")]
    assert [row["page"] for row in found] == [2]


def test_without_pypdf_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Any:
        raise ModuleNotFoundError(name=name)

    (tmp_path / "a.pdf").write_bytes(pdf("x"))
    monkeypatch.setattr(extras.importlib, "import_module", absent)
    with pytest.raises(MachineError) as caught:
        list(read_rows(tmp_path / "a.pdf"))
    assert caught.value.code == "E450" and "pypdf" in caught.value.what


# ───────────────────────────────────────────────────────────────────────────── Word


def docx(body: str, head: str = "", member: str = "word/document.xml") -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
        archive.writestr(
            member, f'<?xml version="1.0"?>{head}<w:document xmlns:w="{W}"><w:body>{body}</w:body></w:document>'
        )
    return out.getvalue()


def paragraph(text: str) -> str:
    return f"<w:p><w:r><w:t>{text}</w:t></w:r></w:p>"


def test_a_word_file_gives_its_paragraphs_tabs_tables_and_no_deleted_text(tmp_path: Path) -> None:
    body = (
        paragraph("One &amp; two")
        + "<w:p><w:r><w:t>a</w:t><w:tab/><w:t>b</w:t><w:br/><w:t>c</w:t></w:r></w:p>"
        + "<w:p><w:del><w:r><w:delText>gone</w:delText></w:r></w:del><w:r><w:instrText>PAGE</w:instrText></w:r></w:p>"
        + f"<w:tbl><w:tr><w:tc>{paragraph('x')}</w:tc><w:tc>{paragraph('y')}</w:tc></w:tr></w:tbl>"
        + '<mc:A xmlns:mc="urn:mc"><mc:Choice>'
        + paragraph("once")
        + "</mc:Choice><mc:Fallback>"
        + paragraph("once")
        + "</mc:Fallback></mc:A>"
    )
    found, bad = one(tmp_path / "a.docx", docx(body))
    assert bad == []
    assert found == [{"text": "One & two\na\tb\nc\n\nx\ty\t\nonce", "file": "a.docx"}]


def test_pages_that_word_marks_are_rows(tmp_path: Path) -> None:
    body = (
        paragraph("first")
        + '<w:p><w:r><w:br w:type="page"/><w:t>second</w:t></w:r></w:p>'
        + "<w:p><w:r><w:lastRenderedPageBreak/><w:t>third</w:t></w:r></w:p>"
    )
    found, _ = one(tmp_path / "a.docx", docx(body))
    assert [(row["page"], row["text"]) for row in found] == [(1, "first"), (2, "second"), (3, "third")]


ENTITIES = '<!DOCTYPE d [<!ENTITY a "aaaaaaaaaa">' + "".join(
    f'<!ENTITY {chr(98 + i)} "{f"&{chr(97 + i)};" * 10}">' for i in range(9)
)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (docx(paragraph("&j;"), ENTITIES + "]>"), "hostile-document"),
        (docx(paragraph("&x;"), '<!DOCTYPE d [<!ENTITY x SYSTEM "file:///etc/hostname">]>'), "hostile-document"),
        (docx(paragraph("x"), '<!DOCTYPE d SYSTEM "http://127.0.0.1:9/d.dtd">'), "hostile-document"),
        (docx(paragraph("x"), member="word/other.xml"), "damaged-document"),
        (docx("<w:p>"), "damaged-document"),
        (docx("x")[:-30], "damaged-document"),
        (b"PK", "damaged-document"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 600, "encrypted"),
    ],
    ids=["bomb of entities", "external entity", "external type", "other", "not closed", "cut", "no archive", "locked"],
)
def test_a_word_file_that_is_hostile_broken_or_locked_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    found, bad = one(tmp_path / "a.docx", content)
    assert (found, bad) == ([], [("a.docx", reason)])


def test_a_word_file_that_unpacks_to_gigabytes_is_refused_early(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "MAX_XML_BYTES", 1_000_000)
    found, bad = one(tmp_path / "a.docx", docx(paragraph("a" * 3_000_000)))
    assert (found, bad) == ([], [("a.docx", "hostile-document")])


def test_members_with_names_that_lead_elsewhere_are_never_written(tmp_path: Path) -> None:
    out = io.BytesIO(docx(paragraph("text")))
    with zipfile.ZipFile(out, "a") as archive:
        archive.writestr("../../escaped.txt", "no")
    (tmp_path / "in").mkdir()
    found, _ = one(tmp_path / "in" / "a.docx", out.getvalue())
    assert [row["text"] for row in found] == ["text"]
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.docx", "in"]


def test_elements_that_are_nested_a_million_deep_cost_nothing(tmp_path: Path) -> None:
    found, bad = one(tmp_path / "a.docx", docx("<w:x>" * 300_000 + paragraph("deep") + "</w:x>" * 300_000))
    assert [row["text"] for row in found] == ["deep"] and bad == []


# ───────────────────────────────────────────────────────────────────────────── HTML and Markdown


def test_a_page_gives_its_text_and_title_in_the_encoding_it_declares(tmp_path: Path) -> None:
    page = (
        "<html><head><title>Über uns</title></head><body><nav>Home</nav><p>Grüße</p><script>x()</script></body></html>"
    )
    expected = {"text": "Über uns\n\nGrüße", "file": "a.html", "title": "Über uns"}
    assert one(tmp_path / "a.html", page.encode()) == ([expected], [])
    latin = page.replace("<head>", '<head><meta charset="ISO-8859-1">')
    assert one(tmp_path / "a.html", latin.encode("latin-1")) == ([expected], [])
    assert one(tmp_path / "b.htm", page.encode("latin-1")) == ([], [("b.htm", "not-utf8")])
    odd = page.replace("<head>", '<head><meta charset="unicode_escape">')
    assert one(tmp_path / "a.html", odd.encode()) == ([expected], [])
    assert one(tmp_path / "c.html", b"<nav>Home</nav>") == ([], [("c.html", "no-text")])


def test_markdown_stays_as_it_is_written(tmp_path: Path) -> None:
    found, bad = one(tmp_path / "a.md", b"# Head\n\n* <b>one</b> &amp;\n")
    assert found == [{"text": "# Head\n\n* <b>one</b> &amp;\n", "file": "a.md"}] and bad == []
    assert one(tmp_path / "b.md", b"caf\xe9") == ([], [("b.md", "not-utf8")])


def test_documents_become_examples_for_cpt_with_file_and_page_in_meta(tmp_path: Path) -> None:
    project = Project.create(tmp_path / "project", "test")
    folder = project.root / "data" / "papers"
    folder.mkdir()
    words = "amber birch cedar delta ember fjord grove haven inlet jetty".split()  # noqa: SIM905
    for i in range(12):
        text = " ".join(words[(i * j + j) % 10] + str(i) for j in range(12))
        (folder / f"{i}.html").write_text(f"<h1>Paper {i}</h1><p>{text}</p>")
        (folder / f"{i}.md").write_text(f"# Note {i}\n\n{text[::-1]}\n")
    body = paragraph("the very first page") + '<w:p><w:r><w:br w:type="page"/><w:t>another page of it</w:t></w:r></w:p>'
    (folder / "w.docx").write_bytes(docx(body))
    (folder / "broken.docx").write_bytes(b"PK")
    data = {"sources": [{"path": "data/papers"}], "max_quarantine": 0.1, "split": {"group_by": "file"}}
    recipe = Recipe.build({"name": "corpus", "data": data, "method": "cpt"})
    version = build(recipe, project)
    examples = [e for split in ("train", "validation", "test") for e in version.examples(split)]
    assert len(examples) == 26 and all(isinstance(e, Text) for e in examples)
    assert {(e.meta["file"], e.meta.get("page")) for e in examples} >= {("w.docx", 1), ("w.docx", 2), ("0.md", None)}
    assert list(version.manifest["quarantine"]["reasons"]) == ["damaged-document"]
    for split in ("validation", "test"):
        files = {e.meta["file"] for e in version.examples(split)}
        assert files.isdisjoint(e.meta["file"] for e in version.examples("train"))
    assert "first page" not in json.dumps(version.manifest)
