"""May this source be used for this purpose? What is stated is always enforced; what is not stated is refused when the
project or the recipe says `gates: {permission: required}`.

Left out: reading consent records from elsewhere, and withdrawal, which starts an erasure.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import Any, Literal

from metier.core.errors import ConfigError, PermissionDenied
from metier.core.recipe import Permission, Recipe, Source

Gate = Literal["required", "optional"]
GATES = ("parity", "permission")


def gate(name: str, recipe: Recipe, settings: dict[str, Any]) -> Gate:
    """Return a gate's value: the project's minimum, which a recipe may only tighten.

    Args:
        name: `parity` or `permission`.
        settings: the project's metier.yaml.

    Raises:
        ConfigError: E266, a gate in metier.yaml that does not exist or has another value than `required`/`optional`.
    """
    minimum = dict(settings.get("gates") or {})
    for key, value in minimum.items():
        if key not in GATES or value not in ("required", "optional"):
            raise ConfigError(
                266,
                f"`gates.{key}: {value}` is not a gate",
                place="metier.yaml",
                expected=f"{', '.join(GATES)}: required or optional",
                fix=f"correct metier.yaml, such as gates: {{{GATES[0]}: required}}",
            )
    wanted: Gate = getattr(recipe.gates, name)
    return "required" if "required" in (wanted, minimum.get(name)) else "optional"


def check(recipe: Recipe, settings: dict[str, Any], *, purpose: str = "training", today: date | None = None) -> None:
    """Refuse a recipe with a source that may not be used.

    Raises:
        PermissionDenied: E601 nothing stated though it is required, E602 the purpose is not among those stated, E603
            consent has expired, E604 the retention period is over, E605 consent without the record's id.
    """
    required = gate("permission", recipe, settings) == "required"
    day = today or datetime.now(UTC).date()
    for index, source in enumerate(recipe.data.sources):
        place = recipe.place(f"data.sources.{index}.permission")
        if source.permission is None or not _complete(source.permission):
            if required:
                raise _unstated(source, place)
            if source.permission is None:
                continue
        _enforce(source, source.permission, purpose, day, place)


def _complete(permission: Permission) -> bool:
    return bool(permission.license and permission.basis and permission.purpose and permission.personal_data is not None)


def _unstated(source: Source, place: str) -> PermissionDenied:
    found = source.permission
    missing = [
        name
        for name in ("license", "basis", "purpose", "personal_data")
        if found is None or getattr(found, name) in (None, ())
    ]
    return PermissionDenied(
        601,
        f"Source `{source.path}` does not state its {_listed(missing)}, and gates.permission is required",
        place=place,
        fix="permission: {license: …, basis: …, purpose: [training], personal_data: true|false}",
    )


def _enforce(source: Source, permission: Permission, purpose: str, day: date, place: str) -> None:
    # Rows that are only measured on need no permission to be learned from.
    enough = {purpose, "evaluation"} if source.split == "test" else {purpose}
    if permission.purpose and not enough & set(permission.purpose):
        raise PermissionDenied(
            602,
            f"Source `{source.path}` has no permission for purpose `{purpose}`",
            place=place,
            received=", ".join(permission.purpose),
            fix="another source, or a permission that covers it",
        )
    if permission.basis == "consent" and not permission.consent_id:
        raise PermissionDenied(
            605, f"Source `{source.path}` rests on consent but names no consent_id", place=place, fix="consent_id: …"
        )
    if permission.consent_expires and _day(permission.consent_expires, place) < day:
        raise PermissionDenied(
            603,
            f"The consent for source `{source.path}` has expired",
            place=place,
            received=permission.consent_expires,
            fix="renew the consent and correct consent_expires, or take the source out of data.sources",
        )
    if permission.retention and _day(permission.retention, place) < day:
        raise PermissionDenied(
            604,
            f"Source `{source.path}` may not be kept any longer",
            place=place,
            received=permission.retention,
            fix="delete it, and retrain without it",
        )


def _day(text: str, place: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ConfigError(
            267,
            "A date is written YYYY-MM-DD",
            place=place,
            received=text,
            expected="a day of the calendar",
            fix="write it such as 2027-12-31",
        ) from None


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
