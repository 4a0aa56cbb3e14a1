"""Raw text for continued pre-training: a `text` column, or a .txt, .md, .html, .pdf or .docx file.

Every token is supervised. Of a document, `file`, `page` and `title` stay in meta (see `metier.data.documents`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from metier.core.catalog import Options as BaseOptions
from metier.core.types import Text
from metier.data.formats import _columns as columns
from metier.data.formats import _messages as parts
from metier.data.formats import labelled

summary = "Raw text: a `text` column, or one file per document"
kind = "text"
COLUMNS = ("text",)


class Options(BaseOptions):
    """No options: the rows say everything."""


SAMPLE: dict[str, Any] = {
    "rows": [{"text": "Call me Ishmael.", "title": "Moby-Dick"}],
    "examples": [Text(text="Call me Ishmael.", meta={"title": "Moby-Dick"})],
}


def fits(row: Mapping[str, Any]) -> str | None:
    """Claim rows with a text and nothing that another format is known by."""
    taken = {"prompt", "completion", "instruction", "output", *columns.REPLY_LISTS}
    if "text" not in row or taken & set(row) or columns.pair_columns(row) or labelled.fits(row):
        return None
    return "has `text` and no label or reply"


def read(row: Mapping[str, Any], *, place: str, meta_from: Mapping[str, Any]) -> Text:
    """Return the row's text.

    Raises:
        RowError: the text is empty or not a string.
    """
    return Text(text=parts.required_text(row, "text"), place=place, meta=parts.rest(meta_from, *COLUMNS))
