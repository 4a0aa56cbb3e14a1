"""What is wrong or worth knowing about the rows of a recipe: a card per finding, errors first.

Two kinds of cards: what the preparation itself met (quarantine, leaks, labels, sizes, lists for a person), and what a
step that the recipe does not have would act upon (`SIGN` in data/steps): it is tried on the training rows, nothing is
written. The text of rows is in `Finding.examples` alone, which no JSON, event or log holds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from metier.actions.compose import Progress
from metier.core.catalog import catalog
from metier.core.errors import DataError
from metier.core.extras import installed
from metier.core.project import Project, digest_json
from metier.core.recipe import Recipe
from metier.core.sections import Kind, Prompt
from metier.core.types import SPLITS, Example, content_of
from metier.data import inspect, review
from metier.data.canaries import without
from metier.data.content import texts_in
from metier.data.coverage import stated, with_step
from metier.data.dataset import build, inputs, quarantine_file
from metier.data.figures import measure
from metier.data.quarantine import listing, raw_rows
from metier.data.steps import Around, Sign, StepResult, packages_of, run_step
from metier.data.versions import Dataset
from metier.governance.permission import permitted

FEW_ROWS = 100
IMBALANCE = 50.0
NUM_EXAMPLES = 5
EXAMPLE_CHARACTERS = 160


class Finding(BaseModel):
    """One finding of `metier data check`: a card with a level, a number, places and the next step.

    `examples` is place → text of a row, for a terminal: it is left out of every other form of the finding.
    """

    model_config = ConfigDict(extra="forbid")

    level: Literal["error", "warning", "ok"]
    code: str
    what: str
    count: int = 0
    places: list[str] = []
    fix: str = ""
    examples: dict[str, str] = Field(default={}, exclude=True, repr=False)


def check(recipe: Recipe, project: Project, *, progress: Progress | None = None) -> list[Finding]:
    """Return what is wrong or worth knowing about the rows, errors first.

    Only errors in the recipe itself and in what its sources may be used for are raised; whatever the rows have becomes
    a finding.

    Raises:
        PermissionDenied: E601–E606, as for `prepare`.
    """
    permitted(recipe, project)
    try:
        dataset = build(recipe, project, progress=progress)
    except DataError as error:
        return [_refusal(error, recipe, project)]
    manifest = dataset.manifest
    found = [
        *_quarantined(manifest, project),
        *_leaks(manifest, recipe),
        *_labels(manifest, recipe),
        *_sizes(dataset),
        *_gaps(dataset, recipe),
        *_reviews(manifest, project),
        *_signs(recipe, dataset, progress),
    ]
    order = {"error": 0, "warning": 1, "ok": 2}
    return sorted(found, key=lambda f: order[f.level])


# ───────────────────────────────────────────────────────────────────────────── findings


def _refusal(error: DataError, recipe: Recipe, project: Project) -> Finding:
    """Return why the rows could not be prepared; of too many bad rows every one is named."""
    found = Finding(level="error", code=error.code, what=error.what, fix=error.fix)
    found.places = [error.place] if error.place else []
    if error.number == 310:
        file = quarantine_file(recipe, project, digest_json(inputs(recipe, project)))
        found.places = [row for _, row in listing(file)]
        found.count = len(found.places)
        found.fix = _look_at(file.relative_to(project.root).as_posix())
        found.examples = _raw(raw_rows(file, limit=NUM_EXAMPLES), found.places)
    return found


def _look_at(file: str) -> str:
    return f"less {file}   (private: it holds the rows)"


def _quarantined(manifest: dict[str, Any], project: Project) -> list[Finding]:
    facts = manifest["quarantine"]
    if not facts["rows"]:
        return [Finding(level="ok", code="E310", what="every row could be read")]
    file = project.root / facts["file"]
    rows = listing(file)
    cards = []
    for reason, found in facts["reasons"].items():
        places = [row for name, row in rows if name == reason] or [str(found["first"])]
        cards.append(
            Finding(
                level="warning",
                code="E310",
                what=f"rows in quarantine: {reason}",
                count=int(found["count"]),
                places=places,
                fix=_look_at(facts["file"]),
                examples=_raw(raw_rows(file, limit=NUM_EXAMPLES, reason=reason), places),
            )
        )
    return cards


def _raw(texts: Sequence[str], places: Sequence[str]) -> dict[str, str]:
    return {place: _shown(text) for place, text in zip(places, texts, strict=False) if text}


def _leaks(manifest: dict[str, Any], recipe: Recipe) -> list[Finding]:
    """Return a card for each sort of leak that the proof counts; that all is well where it counts none."""
    proof = manifest["split_proof"]
    cards = []
    if proof.get("groups_on_both_sides"):
        cards.append(
            Finding(
                level="error",
                code="E330",
                what="groups of equal or near-equal rows stand on both sides of a made split",
                count=int(proof["groups_on_both_sides"]),
                fix="metier data prepare, after deleting this dataset version",
            )
        )
    cleaned = any(step.kind == "decontaminate" for step in recipe.data.steps)
    without_twins = (
        "take these out of the divided source: `decontaminate` drops training rows alone, and the twins"
        " of split_proof.leaking_ids in the manifest are elsewhere"
        if cleaned
        else with_step(recipe.data.steps, {"kind": "decontaminate"})
    )
    if shown := _twins(proof.get("leaks", {})):
        what = f"rows of a given split have a twin in train or validation ({shown}); both scores will be shown"
        cards.append(_leak("E331", what, sum(proof["leaks"].values()), without_twins))
    if shown := _twins(proof.get("validation_leaks", {})):
        what = f"validation rows have a twin in train ({shown}): a checkpoint is chosen on what it has seen"
        fix = "take these rows out of one of the two sources" if cleaned else without_twins
        cards.append(_leak("E342", what, sum(proof["validation_leaks"].values()), fix))
    in_test, in_validation = (int(proof.get(f"{of}keys_on_both_sides", 0)) for of in ("", "validation_"))
    if in_test or in_validation:
        column = manifest["split"]["group_by"]
        what = f"values of {column} stand on both sides ({in_test} of test, {in_validation} of validation)"
        fix = f"take the rows of one {column} out of all sources but one, or divide all rows: split: auto"
        cards.append(_leak("E343", f"{what}: what is measured was seen", in_test + in_validation, fix))
    if late := int(proof.get("time", {}).get("late_rows", 0)):
        column = proof["time"]["column"]
        what = f"rows of train or validation are as late, by {column}, as a later split begins"
        begins = ", ".join(f"{split} {at}" for split, at in proof["time"]["boundaries"].items())
        fix = f"take later rows out of the given source ({begins}), or divide all rows: split: auto"
        cards.append(_leak("E344", what, late, fix))
    return cards or [Finding(level="ok", code="E330", what="no row on one side of a split has a twin on another")]


def _twins(leaks: Mapping[str, Any]) -> str:
    """Return how many rows have a twin, by its sort; empty for none."""
    return ", ".join(f"{count} {sort}" for sort, count in leaks.items() if count)


def _leak(code: str, what: str, count: int, fix: str) -> Finding:
    return Finding(level="warning", code=code, what=what, count=count, fix=fix)


def _labels(manifest: dict[str, Any], recipe: Recipe) -> list[Finding]:
    if not manifest.get("labels"):
        return []
    counts = {label: int(found.get("train", 0)) for label, found in manifest["label_counts"].items()}
    most, least = max(counts.values()), min(counts.values())
    if most > IMBALANCE * least:
        rare = [label for label, n in counts.items() if n * IMBALANCE < most]
        return [
            Finding(
                level="warning",
                code="E332",
                what=f"labels are unbalanced: {least} to {most:,} train rows",
                count=len(rare),
                places=rare[:5],
                fix=with_step(recipe.data.steps, {"kind": "balance", "resample": "up", "ratio": IMBALANCE / 10}),
            )
        ]
    return [Finding(level="ok", code="E332", what=f"{len(counts)} labels, {least} to {most:,} train rows each")]


def _sizes(dataset: Dataset) -> list[Finding]:
    return [
        Finding(
            level="warning",
            code="E333",
            what=f"{split} has {dataset.count(split)} rows: too few for a narrow interval",
            count=dataset.count(split),
            fix="more rows, or a larger data.split." + split,
        )
        for split in ("validation", "test")
        if dataset.count(split) < FEW_ROWS
    ]


def _gaps(dataset: Dataset, recipe: Recipe) -> list[Finding]:
    """Return a card for each thing that the rows lack for those they are meant for."""
    figures = measure({split: dataset.rows(split) for split in SPLITS}, dataset.manifest, stated(recipe))
    return [
        Finding(level="warning", code="E339", what=gap["what"], count=gap["count"], places=gap["names"], fix=gap["fix"])
        for gap in figures["gaps"]
    ]


def _reviews(manifest: Mapping[str, Any], project: Project) -> Iterator[Finding]:
    """Yield a card for each list that a step of the recipe wrote for a person."""
    for record in manifest["steps"]:
        sign = getattr(catalog("steps").get(record["name"]), "SIGN", None)
        if sign is None or "review" not in record:
            continue
        rows = list(review.read(project.root / record["review"]["file"]))
        yield _card(sign, int(record["review"]["rows"]), _reviewed(rows), f"less {record['review']['file']}")


def _reviewed(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    """Return (place, what is said of it, text) of the rows of a list."""
    return [(str(r["place"]), f"{r['label']} → {r['suggested']}", str(r["text"])) for r in rows]


def _signs(recipe: Recipe, dataset: Dataset, progress: Progress | None) -> Iterator[Finding]:
    """Yield a card for each step that the recipe lacks and that would act on the training rows."""
    listed = {step.kind for step in recipe.data.steps}
    signs = {name: getattr(catalog("steps").get(name), "SIGN", None) for name in catalog("steps").names()}
    wanted = {name: sign for name, sign in signs.items() if sign is not None and name not in listed}
    examples = without(dataset.examples("train"))
    held_out: dict[Any, list[Example]] = {split: dataset.examples(split) for split in ("validation", "test")}
    around = Around.of(recipe, Prompt(**(dataset.manifest.get("prompt") or {})), held_out=held_out)
    for index, (name, sign) in enumerate(wanted.items()):
        if progress:
            progress(f"checking: {name}", index, len(wanted))
        step = Kind.model_validate({"kind": name, **sign.options})
        if any(installed(package) is None for package in packages_of([step])):
            continue
        rows = examples[:: -(-len(examples) // sign.max_rows) or 1]
        result = run_step(step, rows, around=around)
        if acted := _acted(rows, result):
            of = f" (of {len(rows):,} training rows looked at)" if len(rows) < len(examples) else ""
            yield _card(sign, len(acted), acted, with_step(recipe.data.steps, {"kind": name, **sign.options}), of)


def _acted(rows: Sequence[Example], result: StepResult) -> list[tuple[str, str, str]]:
    """Return (place, reason, text) of the rows that a step lists, drops or changes."""
    if result.review:
        return _reviewed(result.review)
    reasons = dict(result.dropped)
    kept = dict(zip(result.origins, result.examples, strict=True))
    gone = [(r.place, reasons.get(r.id, ""), _text(r)) for i, r in enumerate(rows) if i not in kept]
    changed = [
        (r.place, "", _text(r)) for i, r in enumerate(rows) if i in kept and content_of(kept[i]) != content_of(r)
    ]
    return gone + changed


def _text(example: Example) -> str:
    return "\n".join(texts_in(content_of(example)))


def _card(sign: Sign, count: int, acted: list[tuple[str, str, str]], fix: str, of: str = "") -> Finding:
    places = [" ".join(filter(None, (place, reason))) for place, reason, _ in acted]
    shown = {place: _shown(text) for place, (_, _, text) in zip(places[:NUM_EXAMPLES], acted, strict=False)}
    return Finding(
        level="warning", code=sign.code, what=sign.what + of, count=count, places=places, fix=fix, examples=shown
    )


def _shown(text: str) -> str:
    """Return a row's text in one line that cannot drive a terminal."""
    cut = text[:EXAMPLE_CHARACTERS] + (" …" if len(text) > EXAMPLE_CHARACTERS else "")
    return inspect.visible(cut).replace("⏎\n", " ⏎ ").replace("\t", " ")
