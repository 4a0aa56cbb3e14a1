"""De-identify a column: drop it, replace its values, read it as text, or make its values coarser.

The three first digits of a ZIP code may stay where more than 20,000 people live; the areas with fewer, by the census
of 2000, are those that the guidance of the US Department of Health on 45 CFR 164.514(b) lists. They become 000.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
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


def changed(value: Any, action: str, replaced: Callable[[str, str], str], read: Callable[[str], str]) -> Any:
    """Return what a column's value becomes; None where it cannot stay.

    Args:
        value: as it was read: text, a number, a list; None and empty text stay.
        action: a name of ACTIONS but `drop`, or a kind.
        replaced: (value, kind) → what stands for it.
        read: free text → the text without identifiers.
    """
    if value is None or value == "" or action == "keep":
        return value
    if isinstance(value, list | tuple):
        return [changed(one, action, replaced, read) for one in value]
    if isinstance(value, dict):
        return {name: changed(one, action, replaced, read) for name, one in value.items()}
    text = str(value)
    if action == "text":
        return read(text) if isinstance(value, str) else value
    if action in COARSER:
        return _coarser(text.strip(), action)
    return replaced(text, action)


def _coarser(text: str, action: str) -> str | None:
    """Return the year, the ten, or the three first digits; a value that has none cannot stay."""
    if action == "year":
        found = _YEAR.search(text)
        return found[0] if found else None
    if action == "zip3":
        head = text[:3]
        if not (len(head) == 3 and head.isdecimal()):
            return None
        return "000" if _SMALL_AREAS.fullmatch(head) else head
    if _TENS.fullmatch(text):
        return text
    try:
        number = int(float(text))
    except (ValueError, OverflowError):
        return None
    low = number // 10 * 10
    return f"{OLDEST}+" if number >= OLDEST else f"{low}-{low + 9}"
