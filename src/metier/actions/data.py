"""Prepare and preview the rows of a recipe; actions/check.py says what is wrong with them."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from metier.actions.compose import Progress, encoder_of, facts_of
from metier.core import audit
from metier.core.errors import ConfigError
from metier.core.locks import sharing
from metier.core.project import Project
from metier.core.recipe import Recipe
from metier.core.types import SPLITS, Example, to_json
from metier.data import inspect, report
from metier.data.coverage import stated
from metier.data.dataset import build
from metier.data.figures import measure
from metier.data.privacy import evaluation
from metier.data.privacy.engine import detect, further
from metier.data.privacy.evaluation import Evaluation
from metier.data.privacy.kinds import PROFILES
from metier.data.versions import Dataset
from metier.governance.permission import permitted

SHOWN_CHARACTERS = 600


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


@sharing("metier data prepare")
def prepare(recipe: Recipe, project: Project, progress: Progress | None = None, *, again: bool = False) -> Dataset:
    """Make (or find) the dataset version of a recipe, and its data card and report beside it.

    They are written anew where the recipe says something else of its audience than before.

    Args:
        again: the recipe is the copy that a run keeps: what it states of its sources may be out of date.

    Raises:
        PermissionDenied: E601–E606, a source that may not be used for training.
        ConfigError, DataError, MachineError: as data/dataset.py's `build`.
    """
    permitted(recipe, project, again=again)
    dataset = build(recipe, project, progress=progress)
    said, known = stated(recipe), report.stated_in(dataset.dir)
    if known is None or (known != said and not recipe.data.dataset):
        if progress:
            progress("writing the data report", 0, None)
        figures = measure({split: dataset.rows(split) for split in SPLITS}, dataset.manifest, said)
        report.write(dataset.dir, dataset.manifest, figures)
    if known is None:
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
        PermissionDenied: E601–E606, as for `prepare`: a preview copies the rows into a dataset version too.
    """
    permitted(recipe, project)
    dataset = build(recipe, project, progress=progress)
    if tokens and progress:
        progress("loading the base model", 0, None)
    split = next(s for s in SPLITS if dataset.count(s))
    examples = list(islice(dataset.iterate(split), max(rows, tokens)))
    return Preview(
        sources=[{k: s[k] for k in ("path", "format", "reason", "rows")} for s in dataset.manifest["sources"]],
        examples=[to_json(e) for e in examples[:rows]],
        tokens=_token_views(recipe, project, dataset, examples[:tokens]) if tokens else [],
    )


def measure_privacy(
    file: Path, *, profile: str = "gdpr", side: str = "all", lower: bool = False, detectors: Sequence[str] = ()
) -> Evaluation:
    """Return how much of the identifiers in a labelled set our rules find.

    Args:
        file: JSON or JSON Lines of labelled texts (data/privacy/evaluation.py, `read`).
        profile: what the rules look for: `hipaa-safe-harbor` or `gdpr`.
        side: `all`, or one half of the templates: `a` or `b`.
        lower: write the texts small first; a text that changes its length by it is left out.
        detectors: those that join the rules: `presidio`.

    Raises:
        DataError: E364, the file is no labelled set.
        ConfigError: E208, no such profile, side or detector.
        MachineError: E450, the detector's package is not installed.
    """
    asked = [("profile", profile, sorted(PROFILES)), ("side", side, ["all", "a", "b"])]
    for name, given, known in [*asked, *(("detector", one, ["presidio"]) for one in detectors)]:
        if given not in known:
            raise ConfigError(
                208,
                f"There is no {name} `{given}`",
                expected=", ".join(known),
                fix=f"metier data pii-eval {shlex.quote(str(file))}",
            )
    documents = evaluation.read(file)
    if side != "all":
        documents = evaluation.halves(documents)["ab".index(side)]
        evaluation.check_labels(documents, file)
    if lower:
        documents = [d for d in map(evaluation.lowered, documents) if d is not None]
    return evaluation.evaluate(documents, partial(detect, profile=profile, extra=further(detectors)))


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
