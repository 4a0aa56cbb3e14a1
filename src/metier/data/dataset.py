"""From a recipe to a dataset version: read → quarantine → prompt → steps → split → steps on train → proof → write.

The same sources, options and code give the same version: it is found, not made again. preparing.py runs the steps,
division.py has the splits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from metier.core.catalog import catalog
from metier.core.extras import installed
from metier.core.locks import sharing
from metier.core.project import Project, digest_bytes, digest_json
from metier.core.recipe import Recipe
from metier.core.types import Example, Split
from metier.data import canaries, review, stages
from metier.data.division import divide, previous_of
from metier.data.labels import judge_labels
from metier.data.preparing import draws, prepare
from metier.data.privacy import anonymity, columns, vault
from metier.data.prompt import check_version
from metier.data.quarantine import Quarantine
from metier.data.reading import (
    Progress,
    check_sources,
    collect,
    kept_columns,
    named_path,
    problem_type_option,
    source_path,
)
from metier.data.rows import BadRow
from metier.data.source import source_digest
from metier.data.spool import Choice, Examples, Spool, extended
from metier.data.stages import Stages, State
from metier.data.steps import (
    after_split,
    check_steps,
    files_of,
    packages_of,
)
from metier.data.versions import Dataset, find_made, write_version


@sharing("preparing rows")
def build(recipe: Recipe, project: Project, *, progress: Progress | None = None) -> Dataset:
    """Return the dataset version that a recipe describes, made now or found.

    The rows go through it on disk (spool.py); a preparation that was interrupted continues (stages.py), and one of the
    same name in another process is waited for.

    Args:
        recipe: sources, steps and split.
        project: where versions and quarantine lie.
        progress: told what is being done.

    Raises:
        ConfigError: E210, E211, E213–E215 a step; E216 canaries among labels; E244–E248 the data section; E251, E252
            `data.dataset`.
        DataError: E300–E309, E312, E313 sources; E305 no examples; E310 too many bad rows; E320 one label; E321 a
            label that train lacks; E322 no train rows; E323 labels of different types; E324 too few times to divide
            by; E340 an altered version; E365 the vault of surrogates.
        MachineError: E420–E422 the disk; E450 a step's package.
    """
    check_sources(recipe)
    check_steps(recipe)
    if recipe.data.dataset:
        version = Dataset.find(project, recipe.data.dataset)
        check_version(recipe.data.prompt, version.manifest, place=recipe.place)
        return version
    inputs_digest = digest_json(inputs(recipe, project))
    if found := find_made(project, recipe.name, inputs_digest):
        return found
    with stages.opened(project, recipe.name, inputs_digest, progress) as kept:
        found = find_made(project, recipe.name, inputs_digest)  # by the one that was waited for
        return found or _made(recipe, project, kept, inputs_digest, progress)


def _made(recipe: Recipe, project: Project, kept: Stages, inputs_digest: str, progress: Progress | None) -> Dataset:
    found = kept.found()
    state = found or _read(recipe, project, kept.begun(), progress)
    if found and progress:
        done = [step.kind for step in recipe.data.steps[: state.num_done] if not after_split(step)]
        progress(f"continuing an interrupted preparation behind {done[-1] if done else 'the reading'}", 0, None)
    quarantine = state.quarantine
    bad_rows_file = quarantine_file(recipe, project, inputs_digest)
    _settle(quarantine, bad_rows_file, recipe, project)
    if not found:
        kept.commit(state)
    with _vault(recipe, project):
        prepare(recipe, state, kept.commit, progress)
    previous = previous_of(recipe, project)
    num_unread = len(quarantine.rows)
    splits, split_facts, later = divide(recipe, project, state.pools, previous, quarantine, progress)
    _settle(quarantine, bad_rows_file, recipe, project)
    label_facts = judge_labels(splits, recipe)
    steps = [*state.records, *later]
    _keep_reviews(steps, review.folder(project, recipe.name), inputs_digest, project)
    facts = {
        "task": recipe.objective.task,
        "sources": _source_facts(state, quarantine.rows[num_unread:]),
        "quarantine": {
            "num_rows": quarantine.num_rows,
            "rows": len(quarantine.rows),
            "in_division": len(quarantine.rows) - num_unread,
            "share": quarantine.share,
            "reasons": quarantine.reasons(),
            "file": bad_rows_file.relative_to(project.root).as_posix() if quarantine.rows else None,
        },
        "steps": steps,
        **split_facts,
        **label_facts,
        "privacy": _privacy(recipe, project, splits),
        "canaries": _plant(recipe, splits),
        "prompt": recipe.data.prompt.model_dump(mode="json"),
        "parents": [previous.name] if previous and split_facts["split"]["made"] else [],
    }

    def writing(done: int, total: int) -> None:
        if progress:
            progress("writing", done, total)

    writing(0, sum(map(len, splits.values())))
    return write_version(project, recipe.name, splits, facts, inputs_digest=inputs_digest, progress=writing)


def inputs(recipe: Recipe, project: Project) -> dict[str, Any]:
    """Return everything that decides what a version holds: sources with digests, options, and this room's code."""
    return {
        "sources": [
            {**source.model_dump(mode="json"), "sha256": source_digest(source_path(source, project))}
            for source in recipe.data.sources
        ],
        "data": recipe.data.model_dump(mode="json", exclude={"sources"}),
        "step_files": {path: source_digest(named_path(path, project)) for path in files_of(recipe.data.steps)},
        "packages": {name: installed(name) for name in packages_of(recipe.data.steps)},
        "task": recipe.objective.task,
        "problem_type": problem_type_option(recipe),
        "kept_columns": kept_columns(recipe),
        "telling_years": [columns.telling_year(options.profile) for options in _deidentifying(recipe)],
        "code": _code_digest(),
    }


# ───────────────────────────────────────────────────────────────────────────── steps


def _vault(recipe: Recipe, project: Project) -> AbstractContextManager[object]:
    """Open the vault of the dataset where a step draws surrogates."""
    return vault.opened(vault.file(project, recipe.name)) if any(map(draws, recipe.data.steps)) else nullcontext()


def _privacy(recipe: Recipe, project: Project, splits: Mapping[Split, Sequence[Example]]) -> dict[str, Any]:
    """Return what the manifest says of the privacy of the rows that are written."""
    steps = _deidentifying(recipe)
    drawn = any(options.strategy == "surrogate" for options in steps)
    subjects = [s.permission.subject_key for s in recipe.data.sources if s.permission and s.permission.subject_key]
    return anonymity.statement(
        (example for examples in splits.values() for example in examples),
        profiles=[options.profile for options in steps],
        vault=vault.file(project, recipe.name).relative_to(project.root).as_posix() if drawn else None,
        quasi_identifiers=sorted({column for options in steps for column in options.quasi_identifiers}),
        named={column for options in steps for column in options.columns},
        linking=sorted({*subjects, *filter(None, [recipe.data.split.group_by])}),
        subjects=sorted(set(subjects)),
    )


def _plant(recipe: Recipe, splits: dict[Split, Examples]) -> dict[str, Any]:
    """Add the canaries to the training rows; return what the manifest says of them, which is not their digits."""
    options = recipe.data.canaries
    planted = canaries.plant(splits["train"], options, seed=recipe.data.split.seed, place=recipe.place("data.canaries"))
    splits["train"] = extended(splits["train"], planted)
    return {**options.model_dump(mode="json"), "rows": len(planted)} if planted else {}


def _deidentifying(recipe: Recipe) -> list[Any]:
    """Return the options of the recipe's `deidentify` steps, in order."""
    return [catalog("steps").options(s.kind, s.options) for s in recipe.data.steps if s.kind == "deidentify"]


def _read(recipe: Recipe, project: Project, spool: Spool, progress: Progress | None) -> State:
    """Read the sources; a split's pool has the rows of all sources that name it."""
    collected = collect(recipe, project, spool, progress)
    parts: dict[str, list[Choice]] = {}
    for source in collected.sources:
        parts.setdefault(source.source.split, []).append(source.examples)
    pools = {name: spool.choice(np.concatenate([part.numbers for part in found])) for name, found in parts.items()}
    facts = [source.facts for source in collected.sources]
    return State(spool, pools, facts, collected.quarantine, len(spool))


def _keep_reviews(records: list[dict[str, Any]], folder: Path, inputs_digest: str, project: Project) -> None:
    """Write the lists for a person; the records keep where they are and how long, and no content."""
    for index, record in enumerate(records):
        if rows := record.get("review"):
            file = folder / f"{inputs_digest[:12]}-{index + 1}-{record['name']}.jsonl"
            review.write(file, rows)
            record["review"] = {"rows": len(rows), "file": file.relative_to(project.root).as_posix()}


# ───────────────────────────────────────────────────────────────────────────── quarantine, code


def quarantine_file(recipe: Recipe, project: Project, inputs_digest: str) -> Path:
    """Return where a preparation from these inputs puts its bad rows, whether it is refused (E310) or not."""
    return project.private_dir / "quarantine" / recipe.name / f"{inputs_digest[:12]}.jsonl"


def _settle(quarantine: Quarantine, file: Path, recipe: Recipe, project: Project) -> None:
    """Write the bad rows, then judge their share: a refused preparation can still be looked into."""
    if quarantine.rows:
        quarantine.write(file)
    sources = [source.path for source in recipe.data.sources]
    quarantine.check(recipe.data.max_quarantine, sources, file=file.relative_to(project.root).as_posix())


def _source_facts(state: State, refused: Sequence[BadRow]) -> list[dict[str, Any]]:
    """Return the manifest's `sources`, in which the rows that the division `refused` are no rows but quarantined."""
    left = Counter(row.place for row in refused)
    found, start = [], 0
    for facts in state.sources:
        # The spool begins with the rows that were read, source by source.
        read = state.spool.choice(np.arange(start, start := start + facts["rows"]))
        mine = Counter(e.place for e in read if e.place in left) & left if left else Counter[str]()
        left -= mine
        rows, bad = facts["rows"] - mine.total(), facts["quarantined"] + mine.total()
        found.append({**facts, "rows": rows, "quarantined": bad})
    return found


def _code_digest() -> str:
    """Return a digest of this room's files: what they make of a row changes with them (formats and steps included).

    The word list of data/privacy counts, too.
    """
    files = [path for path in Path(__file__).parent.rglob("*") if path.suffix in (".py", ".gz")]
    return digest_bytes(b"".join(path.read_bytes() for path in sorted(files)))


__all__ = ["Dataset", "build", "inputs", "quarantine_file"]
