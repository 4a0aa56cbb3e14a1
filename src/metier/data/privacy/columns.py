"""De-identify a column: drop it, replace its values, read it as text, or make its values coarser.

The three first digits of a ZIP code may stay where more than 20,000 people live; the areas with fewer, by the census
of 2000, are those that the guidance of the US Department of Health on 45 CFR 164.514(b) lists. They become 000. A code
that was stored as a number lost its leading zeros and gets them back; three digits alone are taken for what this made.

A year may stay under Safe Harbor, but not one that tells an age over 89 (45 CFR 164.514(b)(2)(i)(C)): those are one
category, `1936 or earlier`, counted from the year in which the rows are prepared.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from metier.data.privacy.kinds import KINDS

COARSER = ("year", "tens", "zip3")
ACTIONS = ("keep", "drop", "text", *COARSER)
"""What may be said of a column beside a kind of identifier (kinds.KINDS), which its values then are as a whole."""

_COARSE_KINDS = ("DATE", "AGE")
"""Kinds whose surrogate is the year, or 90+."""

_YEAR = re.compile(r"(?<!\d)(?:1[5-9]|20|21)\d{2}(?!\d)")
_TENS = re.compile(r"\d+-\d+|90\+")
_SMALL_AREAS = re.compile(r"036|059|063|102|203|556|692|790|821|823|830|831|878|879|884|890|893")
_ZIP = re.compile(r"([0-9]{3,9})(?:\.0+)?(?![0-9])")
OLDEST = 90


def check(columns: dict[str, str]) -> dict[str, str]:
    """Return the mapping when every action is one.

    Raises:
        ValueError: an action that there is not; names it.
    """
    for name, action in columns.items():
        if action not in ACTIONS and action not in KINDS:
            raise ValueError(
                f"`{name}: {action}`: the actions are {', '.join(ACTIONS)}, and the kinds {', '.join(KINDS)}"
            )
    return columns


def tells_apart(action: str, strategy: str) -> bool:
    """Whether a column still says which rows are one person's: one that stays, and surrogates of their own.

    Tags, masks, read text and coarser values are the same for many, or another one each time.
    """
    return action == "keep" or (action in KINDS and action not in _COARSE_KINDS and strategy == "surrogate")


def blurred_columns(manifest: Mapping[str, Any]) -> dict[str, str]:
    """Return the columns of a version that tell nobody apart any more → what became of them."""
    found = {}
    for step in manifest["steps"]:
        if step["name"] == "deidentify":
            strategy = step["options"].get("strategy", "tag")
            for column, action in step["options"].get("columns", {}).items():
                if not tells_apart(action, strategy):
                    found[column] = f"{strategy} {action}" if action in KINDS else action
    return found


def telling_year(profile: str) -> int | None:
    """Return the last year that tells an age over 89, where the profile forbids to; it moves on with the years."""
    return datetime.now(UTC).year - OLDEST if profile == "hipaa-safe-harbor" else None


def kept_year(text: str, telling: int | None) -> str | None:
    """Return the year of a date, or the category of those that tell an age over 89; None where there is none."""
    found = _YEAR.search(text)
    if found and telling is not None and int(found[0]) <= telling:
        return f"{telling} or earlier"
    return found[0] if found else None


def tens(number: int) -> str:
    """Return the ten of years that an age lies in; `90+` from 90."""
    low = number // 10 * 10
    return f"{OLDEST}+" if number >= OLDEST else f"{low}-{low + 9}"


def changed(
    value: Any,
    action: str,
    replaced: Callable[[str, str], str],
    read: Callable[[str], str],
    telling: int | None = None,
) -> Any:
    """Return what a column's value becomes; None where it cannot stay.

    Args:
        value: as it was read: text, a number, a list; None and empty text stay.
        action: a name of ACTIONS but `drop`, or a kind.
        replaced: (value, kind) → what stands for it.
        read: free text → the text without identifiers.
        telling: the last year that may not stay (`telling_year`).
    """
    if value is None or value == "" or action == "keep":
        return value
    if isinstance(value, list | tuple):
        return [changed(one, action, replaced, read, telling) for one in value]
    if isinstance(value, dict):
        return {name: changed(one, action, replaced, read, telling) for name, one in value.items()}
    text = str(value)
    if action == "text":
        return read(text) if isinstance(value, str) else value
    if action in COARSER:
        return _coarser(text.strip(), action, telling)
    return replaced(text, action)


def _coarser(text: str, action: str, telling: int | None) -> str | None:
    """Return the year, the ten, or the three first digits; a value that has none cannot stay."""
    if action == "year":
        return kept_year(text, telling)
    if action == "zip3":
        found = _ZIP.match(text)
        if not found:
            return None
        lengths = {4: 5, 7: 9, 8: 9}  # what is left of a code, or of one with its four further digits
        head = found[1].zfill(lengths.get(len(found[1]), 0))[:3]
        return "000" if _SMALL_AREAS.fullmatch(head) else head
    if _TENS.fullmatch(text):
        return text
    try:
        return tens(int(float(text)))
    except (ValueError, OverflowError):
        return None
