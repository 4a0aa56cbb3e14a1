"""Prepare, check and preview the rows of a recipe."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from metier.actions.compose import Progress, encoder_of, facts_of
from metier.core import audit
from metier.core.errors import ConfigError, DataError
from metier.core.project import Project, digest_json
from metier.core.recipe import Recipe
from metier.core.types import SPLITS, Example, to_json
from metier.data import inspect, report
from metier.data.dataset import build, inputs, quarantine_file
from metier.data.privacy import evaluation
from metier.data.privacy.engine import detect
from metier.data.privacy.evaluation import Evaluation
from metier.data.privacy.kinds import PROFILES
from metier.data.quarantine import listing
from metier.data.versions import Dataset
from metier.governance.permission import permitted

FEW_ROWS = 100
IMBALANCE = 50.0
SHOWN_CHARACTERS = 600


class Finding(BaseModel):
    """One finding of `metier data check`: a card with a level, a number, places and the next step."""

    model_config = ConfigDict(extra="forbid")

    level: Literal["error", "warning", "ok"]
    code: str
    what: str
    count: int = 0
    places: list[str] = []
    fix: str = ""


class Preview(BaseModel):
    """What the rows of a recipe become."""

    model_config = ConfigDict(extra="forbid")

    sources: list[dict[str, Any]]
    examples: list[dict[str, Any]]
    tokens: list[dict[str, Any]]

    def to_text(self, *, color: bool = False) -> str:
        """Return the preview for a terminal; without color, what has a loss stands in ⟦ ⟧."""
        lines = [f"{s['path']}   format {s['format']}: {s['reason']}   {s['rows']:,} rows" for s in self.sources]
        for example in self.examples:
            lines += ["", f"── {example['place']}  {example['id']}", *_shown(example)]
        for row in self.tokens:
            lines += ["", f"── {row['place']}  {row['supervised']} of {row['tokens']} tokens have a loss"]
            lines += [inspect.terminal([inspect.Piece(*piece) for piece in row["pieces"]], color=color)]
        return "\n".join(lines)


def prepare(recipe: Recipe, project: Project, progress: Progress | None = None) -> Dataset:
    """Make (or find) the dataset version of a recipe, and its data card and report beside it.

    Raises:
        PermissionDenied: E601–E605, a source that may not be used for training.
        ConfigError, DataError, MachineError: as data/dataset.py's `build`.
    """
    permitted(recipe, project)
    dataset = build(recipe, project, progress=progress)
    if not (dataset.dir / "report.html").exists():
        figures = report.measure({split: dataset.examples(split) for split in SPLITS})
        report.write(dataset.dir, dataset.manifest, figures)
        audit.append(project, "data.prepare", dataset=dataset.ref, digest=dataset.digest)
    return dataset


def preview(
    recipe: Recipe, project: Project, rows: int = 3, tokens: int = 0, *, progress: Progress | None = None
) -> Preview:
    """Return the format of each source with its reason, a few examples, and, with `tokens`, their loss masks.

    Args:
        rows: examples shown.
        tokens: examples shown token by token; needs the base model's tokenizer.

    Raises:
        PermissionDenied: E601–E605, as for `prepare`: a preview copies the rows into a dataset version too.
    """
    permitted(recipe, project)
    dataset = build(recipe, project, progress=progress)
    if tokens and progress:
        progress("loading the base model", 0, None)
    split = next(s for s in SPLITS if dataset.count(s))
    examples = dataset.examples(split)[: max(rows, tokens)]
    return Preview(
        sources=[{k: s[k] for k in ("path", "format", "reason", "rows")} for s in dataset.manifest["sources"]],
        examples=[to_json(e) for e in examples[:rows]],
        tokens=_token_views(recipe, project, dataset, examples[:tokens]) if tokens else [],
    )


def check(recipe: Recipe, project: Project, *, progress: Progress | None = None) -> list[Finding]:
    """Return what is wrong or worth knowing about the rows, errors first.

    Only errors in the recipe itself and in what its sources may be used for are raised; whatever the rows have becomes
    a finding.

    Raises:
        PermissionDenied: E601–E605, as for `prepare`.
    """
    permitted(recipe, project)
    try:
        dataset = build(recipe, project, progress=progress)
    except DataError as error:
        return [_refusal(error, recipe, project)]
    manifest = dataset.manifest
    found = [
        *_quarantined(manifest, project),
        *_leaks(manifest),
        *_labels(manifest),
        *_sizes(dataset),
    ]
    order = {"error": 0, "warning": 1, "ok": 2}
    return sorted(found, key=lambda f: order[f.level])


def measure_privacy(file: Path, *, profile: str = "gdpr", side: str = "all", lower: bool = False) -> Evaluation:
    """Return how much of the identifiers in a labelled set our rules find.

    Args:
        file: JSON or JSON Lines of labelled texts (data/privacy/evaluation.py, `read`).
        profile: what the rules look for: `hipaa-safe-harbor` or `gdpr`.
        side: `all`, or one half of the templates: `a` or `b`.
        lower: write the texts small first; a text that changes its length by it is left out.

    Raises:
        DataError: E364, the file is no labelled set.
        ConfigError: E208, no such profile or side.
    """
    for name, given, known in (("profile", profile, sorted(PROFILES)), ("side", side, ["all", "a", "b"])):
        if given not in known:
            raise ConfigError(
                208, f"There is no {name} `{given}`", expected=", ".join(known), fix=f"metier data pii-eval {file}"
            )
    documents = evaluation.read(file)
    if side != "all":
        documents = evaluation.halves(documents)["ab".index(side)]
    if lower:
        documents = [d for d in map(evaluation.lowered, documents) if d is not None]
    return evaluation.evaluate(documents, partial(detect, profile=profile))


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
    return found


def _look_at(file: str) -> str:
    return f"look at {file} (private: it holds the rows)"


def _quarantined(manifest: dict[str, Any], project: Project) -> list[Finding]:
    facts = manifest["quarantine"]
    if not facts["rows"]:
        return [Finding(level="ok", code="E310", what="every row could be read")]
    rows = listing(project.root / facts["file"])
    return [
        Finding(
            level="warning",
            code="E310",
            what=f"rows in quarantine: {reason}",
            count=int(found["count"]),
            places=[row for name, row in rows if name == reason] or [str(found["first"])],
            fix=_look_at(facts["file"]),
        )
        for reason, found in facts["reasons"].items()
    ]


def _leaks(manifest: dict[str, Any]) -> list[Finding]:
    proof = manifest["split_proof"]
    if proof.get("groups_on_both_sides"):
        return [
            Finding(
                level="error",
                code="E330",
                what="groups of equal or near-equal rows stand on both sides of a made split",
                count=int(proof["groups_on_both_sides"]),
                fix="metier data prepare, after deleting this dataset version",
            )
        ]
    leaks = {k: int(v) for k, v in proof.get("leaks", {}).items() if isinstance(v, int) and v}
    if leaks:
        shown = ", ".join(f"{n} {kind}" for kind, n in leaks.items())
        return [
            Finding(
                level="warning",
                code="E331",
                what=f"rows of a given split have a twin in train ({shown}); both scores will be shown",
                count=sum(leaks.values()),
                fix="nothing: a given split is never altered",
            )
        ]
    return [Finding(level="ok", code="E330", what="no row on one side of a split has a twin on another")]


def _labels(manifest: dict[str, Any]) -> list[Finding]:
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
                fix="more rows of the rare labels",
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


# ───────────────────────────────────────────────────────────────────────────── preview


def _token_views(recipe: Recipe, project: Project, dataset: Dataset, examples: list[Example]) -> list[dict[str, Any]]:
    from metier.models import base as bases
    from metier.training.method import Method

    base = bases.load(recipe.model, resolve=project.path)
    encoder = encoder_of(recipe, project, dataset, base)
    method = Method.of(recipe.method.kind, recipe.method.options, facts_of(dataset))
    method.check(dataset.manifest["kinds"])
    method.check_prompt(recipe.data.prompt, place=recipe.place)
    views = []
    for example in examples:
        for encoded in method.encode([example], encoder):
            views.append(
                {
                    "place": example.place,
                    "tokens": len(encoded.token_ids),
                    "supervised": int((encoded.loss_mask > 0).sum()),
                    "cut_tokens": encoded.cut_tokens,
                    "pieces": [list(piece) for piece in inspect.pieces(encoded, encoder)],
                }
            )
    return views


def _shown(example: dict[str, Any]) -> list[str]:
    def cut(text: str) -> str:
        text = inspect.visible(text)
        return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]} … ({len(text):,} characters)"

    lines = [f"{name}: {cut(str(example[name]))}" for name in ("text", "target", "label") if name in example]
    for part in ("messages", "prompt", "chosen", "rejected", "completion"):
        for message in example.get(part, []):
            content = message.get("content", "")
            words = content if isinstance(content, str) else "".join(content)
            calls = "".join(f" → {c['name']}({c['arguments_text']})" for c in message.get("tool_calls", []))
            lines.append(f"{'' if part == 'messages' else part + ' '}{message['role']}: {cut(words + calls)}")
    return lines
