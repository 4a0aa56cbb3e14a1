"""May this source be used for this purpose? What is stated is always enforced; what is not stated is refused when the
project or the recipe says `gates: {permission: required}`.

Every verb that uses the rows asks: preparing, training, going on with a run, evaluating. A finished model is not its
rows: to talk to it and to export it asks nothing.

Left out: reading consent records from elsewhere. A withdrawal blocks the next use; `metier erase` takes the rows out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any, Literal

from metier.core.errors import ConfigError, PermissionDenied
from metier.core.project import Project, Settings
from metier.core.recipe import Recipe
from metier.core.sections import Permission, Source
from metier.data.statements import located, overlap, statements
from metier.data.versions import Dataset

Gate = Literal["required", "optional"]
Purpose = Literal["training", "evaluation"]
GATES = ("parity", "permission")
STATEMENTS = ("license", "basis", "purpose", "personal_data")
"""What the gate asks of every source."""


def gate(name: str, recipe: Recipe, settings: Settings) -> Gate:
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
                place=settings.place(f"gates.{key}"),
                expected=f"{', '.join(GATES)}: required or optional",
                fix=f"correct metier.yaml, such as gates: {{{GATES[0]}: required}}",
            )
    wanted: Gate = getattr(recipe.gates, name)
    return "required" if "required" in (wanted, minimum.get(name)) else "optional"


def permitted(
    recipe: Recipe,
    project: Project,
    *,
    again: bool = False,
    dataset: str | None = None,
    purpose: Purpose = "training",
) -> None:
    """Refuse a recipe whose rows may not be used: those of its sources, or of the dataset version it names.

    What a recipe in `recipes/` states of a source counts for every recipe, version and run that has rows of it: there a
    consent is withdrawn or renewed. Where several state something, each is enforced. What the manifest of a version and
    the copy that a run keeps say counts where no such recipe states anything of the source any more.

    Args:
        again: the recipe is such a copy.
        dataset: the version that a run read; default: the one that the recipe names.
        purpose: rows that may be trained on may also be measured on.

    Raises:
        PermissionDenied: E601–E606, as `check`.
        ConfigError: E251, E252, `data.dataset` names no version; E266, E267.
        DataError: E340, that version was altered.
    """
    judged = _own(recipe)
    if named := dataset or recipe.data.dataset:
        version = Dataset.find(project, named)
        place = recipe.place("data.dataset" if recipe.data.dataset else "data.sources")
        judged = [(_recorded(source), place) for source in version.manifest["sources"]]
    old = again or bool(named)
    now = [(stated, located(project, stated.path)) for stated in statements(project)]
    asked: list[tuple[Source, str]] = []
    current: list[tuple[Source, str]] = []
    for source, place in judged:
        here = located(project, source.path)
        said = [(source.model_copy(update={"permission": s.permission}), s.place, there) for s, there in now]
        current += [(stating, at) for stating, at, there in said if overlap(there, here)]
        same = [(stating, at) for stating, at, there in said if there == here]
        # Of several recipes one that states everything is enough for the gate; what each states is enforced below.
        asked.append(min(same, key=lambda item: len(unstated(item[0].permission))) if old and same else (source, place))
    check(recipe, project.settings, sources=asked, purpose=purpose)
    for stated, place in current:
        _enforce(stated, stated.permission, purpose, datetime.now(UTC).date(), place)


def check(
    recipe: Recipe,
    settings: Settings,
    *,
    sources: Sequence[tuple[Source, str]] | None = None,
    purpose: str = "training",
    today: date | None = None,
) -> None:
    """Refuse a recipe with a source that may not be used.

    Args:
        settings: the project's metier.yaml.
        sources: what is judged, each with the place that errors name; None: the recipe's own.

    Raises:
        PermissionDenied: E601 nothing stated though it is required, E602 the purpose is not among those stated, E603
            consent has expired, E604 the retention period is over, E605 consent without the record's id, E606
            consent was withdrawn.
    """
    required = gate("permission", recipe, settings) == "required"
    day = today or datetime.now(UTC).date()
    for source, place in _own(recipe) if sources is None else sources:
        if required and (missing := unstated(source.permission)):
            raise _unstated(source, missing, place)
        _enforce(source, source.permission, purpose, day, place)


def unstated(permission: Permission | None) -> list[str]:
    """Return what a source would have to state where the permission gate is required, and does not."""
    return [name for name in STATEMENTS if permission is None or getattr(permission, name) in (None, "", ())]


def marks(sources: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a mark per source of a dataset version's manifest: ✔ where all that a gate asks for is stated, else ✘."""
    found = []
    for source in map(_recorded, sources):
        missing = unstated(source.permission)
        lack = f" (not stated: {', '.join(name.replace('_', ' ') for name in missing)})" if missing else ""
        personal = " (personal data)" if source.permission is not None and source.permission.personal_data else ""
        found.append(f"{'✘' if missing else '✔'} {source.path}{lack}{personal}")
    return found


def _own(recipe: Recipe) -> list[tuple[Source, str]]:
    """The recipe's sources, each with the line of its permission, or its own where it has none."""
    keys = [f"data.sources.{i}" + (".permission" if s.permission else "") for i, s in enumerate(recipe.data.sources)]
    return [(source, recipe.place(key)) for source, key in zip(recipe.data.sources, keys, strict=True)]


def _recorded(source: Mapping[str, Any]) -> Source:
    """A source as a dataset version's manifest holds it, as far as permission goes."""
    return Source.model_validate({name: source[name] for name in ("path", "split", "permission")})


def _unstated(source: Source, missing: Sequence[str], place: str) -> PermissionDenied:
    return PermissionDenied(
        601,
        f"Source `{source.path}` does not state its {_listed(missing)}, and gates.permission is required",
        place=place,
        fix="permission: {license: …, basis: …, purpose: [training], personal_data: true|false} beside the source's "
        "path (for data.dataset: in the recipe that makes it, then metier data prepare)",
    )


def _enforce(source: Source, permission: Permission | None, purpose: str, day: date, place: str) -> None:
    if permission is None:
        return
    # Rows that are only measured on need no permission to be learned from; what may be learned from may be measured on.
    enough = {purpose, *(["evaluation"] if source.split == "test" else [])}
    enough |= {"training"} if purpose == "evaluation" else set()
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
    if permission.consent_withdrawn and _day(permission.consent_withdrawn, place) <= day:
        raise PermissionDenied(
            606,
            f"The consent for source `{source.path}` was withdrawn",
            place=place,
            received=permission.consent_withdrawn,
            fix="take the source out of data.sources; for one person of it: metier erase --subject KEY",
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
