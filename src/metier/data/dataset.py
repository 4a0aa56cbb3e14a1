"""From a recipe to a dataset version: read → quarantine → prompt → steps → split → steps on train → proof → write.

The same sources, options and code give the same version: it is found, not made again. How the splits come about:

- `split: train|validation|test` gives a split: its rows are never moved or dropped, its leaks are counted.
- `split: auto` rows are divided: into train and into those of validation and test that no source gives. One that is
  alike to a row of a given train split, or has its group key, goes to train, too.
- Where a train split is given, nothing is `auto` and no source gives a validation split, validation is held out of
  train (`data.split.validation`; 0 keeps train whole): a checkpoint is chosen on it, and never on test.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from metier.core.catalog import catalog
from metier.core.errors import ConfigError, DataError, RowError
from metier.core.extras import installed
from metier.core.locks import sharing
from metier.core.project import Project, digest_bytes, digest_json
from metier.core.recipe import Kind, Recipe
from metier.core.types import SPLITS, Example, Split
from metier.data import canaries, chronology, review, stages
from metier.data.labels import judge_labels
from metier.data.privacy import anonymity, columns, vault
from metier.data.prompt import check_version, literals
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
from metier.data.rows import BadRow, shown_column
from metier.data.similar import Compared, comparable, liken
from metier.data.source import source_digest
from metier.data.split import Previous, assign, group_keys, proof
from metier.data.spool import Choice, Examples, Spool, characters_in, chosen, extended, joined
from metier.data.stages import Stages, State
from metier.data.steps import (
    Around,
    StepResult,
    after_split,
    check_steps,
    columns_of,
    files_of,
    packages_of,
    run_step,
    run_step_on_given,
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
    previous = _previous(recipe, project)
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
    return vault.opened(vault.file(project, recipe.name)) if any(map(_draws, recipe.data.steps)) else nullcontext()


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


def _draws(step: Kind) -> bool:
    """Say whether a step draws surrogates from the vault."""
    return step.kind == "deidentify" and catalog("steps").options(step.kind, step.options).strategy == "surrogate"


def _read(recipe: Recipe, project: Project, spool: Spool, progress: Progress | None) -> State:
    """Read the sources; a split's pool has the rows of all sources that name it."""
    collected = collect(recipe, project, spool, progress)
    parts: dict[str, list[Choice]] = {}
    for source in collected.sources:
        parts.setdefault(source.source.split, []).append(source.examples)
    pools = {name: spool.choice(np.concatenate([part.numbers for part in found])) for name, found in parts.items()}
    facts = [source.facts for source in collected.sources]
    return State(spool, pools, facts, collected.quarantine, len(spool))


def prepare(
    recipe: Recipe,
    state: State,
    commit: Callable[[State], None] = lambda state: None,
    progress: Progress | None = None,
) -> None:
    """Run the steps that come before the division, from the one on that the state has reached; each is added to it.

    Steps see train and auto rows together; given validation and test rows are rewritten like them but never dropped.

    Args:
        commit: keeps the state behind a step. Not behind one that draws surrogates, nor later: they would be written
            down before the vault that they are drawn from is.

    Raises:
        ConfigError: E210, E211; E215 a column that no row has.
        DataError: E305, nothing is left.
    """
    if not state.num_done:
        _check_columns(recipe, state)
    around, drawing = Around.of(recipe), False
    for index, step in enumerate(recipe.data.steps):
        drawing = drawing or _draws(step)
        if after_split(step) or index < state.num_done:
            continue
        _advance(state, step, recipe.place(f"data.steps.{index}"), around, progress)
        state.num_done = index + 1
        if not drawing:
            commit(state)
    if not any(map(len, state.pools.values())):
        raise DataError(
            305,
            "No examples are left",
            place=recipe.place("data"),
            received=f"{state.num_read:,} rows before the steps",
            fix="look at what each step drops: metier data check",
        )


def _advance(state: State, step: Kind, place: str, around: Around, progress: Progress | None) -> None:
    """Run one step; the state has its rows and its record then, and nothing else of it is left in memory."""
    pools = state.pools
    free = joined(pools[name] for name in ("train", "auto") if name in pools)
    num_train = len(pools.get("train", ()))
    result = run_step(step, _watched(free, step.kind, progress), place=place, around=around)
    given = {
        name: run_step_on_given(step, pools[name], place=place, around=around)
        for name in ("validation", "test")
        if pools.get(name)
    }
    of_train = np.asarray(result.origins, dtype=np.int64) < num_train
    sides = {"train": np.flatnonzero(of_train), "auto": np.flatnonzero(~of_train)}
    after = {name: made.examples for name, made in given.items()}
    after |= {name: chosen(result.examples, rows) for name, rows in sides.items() if len(rows)}
    notes = {name: made.note for name, made in given.items()}
    state.records.append(_record(step, result, list(pools.values()), list(after.values()), notes))
    state.pools = {name: state.spool.taking(pool) for name, pool in after.items()}


def _watched(examples: Examples, what: str, progress: Progress | None) -> Examples:
    """Return the examples, of whose reading `progress` is told."""
    if progress is None or not isinstance(examples, Choice):
        return examples
    progress(what, 0, len(examples))
    return examples.watched(lambda done: progress(what, done, len(examples)))


def _check_columns(recipe: Recipe, state: State) -> None:
    """Refuse a misspelt column of `deidentify`: the one that was meant would stay as it is.

    Raises:
        ConfigError: E215.
    """
    for index, step in enumerate(recipe.data.steps):
        for column in columns_of([step]) if step.kind == "deidentify" else ():
            pools = [pool for pool in state.pools.values() if len(pool)]
            if pools and not any(column in example.meta for pool in pools for example in pool):
                known = sorted({name for pool in pools for e in pool[:100] for name in e.meta})
                raise ConfigError(
                    215,
                    f"`deidentify` names the column `{column}`, which no row has",
                    place=recipe.place(f"data.steps.{index}"),
                    expected=", ".join(map(shown_column, known[:20])) or "no column stays beside the text",
                    fix="write the column as the source has it, or leave it out",
                )


def _record(
    step: Kind, result: StepResult, before: Sequence[Examples], after: Sequence[Examples], given: dict[str, str]
) -> dict[str, Any]:
    """Return what the manifest says of a step; `review` is taken out again when the list is written."""
    return {
        "name": step.kind,
        "options": step.options,
        "after_split": after_split(step),
        "rows_in": sum(map(len, before)),
        "rows_out": sum(map(len, after)),
        "characters_in": sum(map(characters_in, before)),
        "characters_out": sum(map(characters_in, after)),
        "note": result.note,
        "given": given,
        "dropped": dict(Counter(reason for _, reason in result.dropped)),
        **({"review": result.review} if result.review else {}),
    }


def _keep_reviews(records: list[dict[str, Any]], folder: Path, inputs_digest: str, project: Project) -> None:
    """Write the lists for a person; the records keep where they are and how long, and no content."""
    for index, record in enumerate(records):
        if rows := record.get("review"):
            file = folder / f"{inputs_digest[:12]}-{index + 1}-{record['name']}.jsonl"
            review.write(file, rows)
            record["review"] = {"rows": len(rows), "file": file.relative_to(project.root).as_posix()}


# ───────────────────────────────────────────────────────────────────────────── splits


def divide(
    recipe: Recipe,
    project: Project,
    pools: Mapping[str, Examples],
    previous: Previous | None,
    quarantine: Quarantine,
    progress: Progress | None = None,
) -> tuple[dict[Split, Examples], dict[str, Any], list[dict[str, Any]]]:
    """Return the examples by split, the manifest's `split` and `split_proof`, and a record per step on train.

    Raises:
        DataError: E322, no train rows; E324, too few different times.
    """
    options = recipe.data.split
    divided, shares = _what_to_divide(recipe, pools)
    pool: Examples = pools[divided] if divided else []
    by_time = options.time_by if any(shares.values()) else None
    previous = previous.within({"train", *(split for split in shares if shares[split] > 0)}) if previous else None
    if by_time:
        pool = _dated(pool, by_time, quarantine)
    given = [split for split in SPLITS if split != divided and pools.get(split)]
    fixed = [split for split in given for _ in range(len(pools[split]))]
    examples = joined([pool, *(pools[split] for split in given)])
    watched = _watched(examples, "looking for duplicates", progress)
    likeness = liken(Compared(watched, literals(recipe.data.prompt.user)), options.near_duplicates)
    keys = group_keys(examples, options.group_by)
    size = len(pool)
    # Rows of a given train split stand right behind those that are divided: what is alike to one is no held-out row.
    reach = size + (len(pools.get("train", ())) if divided == "auto" else 0)
    all_groups = likeness.of(np.arange(reach)).groups(keys[:reach])
    groups, trained = all_groups[:size], frozenset(all_groups[size:].tolist())
    boundaries: dict[Split, chronology.Time] = {}
    assigned: list[Split | None]
    if by_time:
        assigned, boundaries = chronology.assign(
            pool,
            groups,
            chronology.times_of(pool, by_time),
            shares=shares,
            keys=keys[:size],
            previous=previous,
            trained=trained,
            place=recipe.place("data.split.time_by"),
        )
    else:
        assigned = assign(
            pool,
            groups,
            shares=shares,
            seed=options.seed,
            stratify=options.stratify,
            keys=keys[:size],
            previous=previous,
            trained=trained,
        )
    kept: dict[Split, list[int]] = {split: [] for split in SPLITS}
    for row in range(len(examples)):
        split = assigned[row] if row < size else fixed[row - size]
        if split is None:
            _refuse(
                pool[row],
                RowError("bridges-splits", "a new row is alike to rows of two splits of the earlier version"),
                quarantine,
            )
        else:
            kept[split].append(row)
    kept["train"], records = _choose(recipe, project, examples, kept, progress)
    splits: dict[Split, Examples] = {split: chosen(examples, rows) for split, rows in kept.items()}
    if not len(splits["train"]):
        counts = ", ".join(f"{split} {len(found):,}" for split, found in splits.items())
        raise DataError(
            322,
            "There are no rows to train on",
            place=recipe.place("data"),
            received=counts,
            expected="a source with `split: train` or `split: auto`",
            fix="metier data add FILE --split train, or smaller data.split.validation and data.split.test",
        )
    rows = [row for split in SPLITS for row in kept[split]]
    final: list[Split] = [split for split in SPLITS for _ in kept[split]]
    made = [split for split in shares if shares[split] > 0]
    written = chosen(examples, rows)
    proven = proof(written, final, likeness.of(rows), [keys[row] for row in rows], made=made)
    if options.time_by:  # of given splits, too, which are not divided by it
        times = chronology.times_of(written, options.time_by)
        proven["time"] = chronology.proof(times, final, boundaries, column=options.time_by)
    facts = {
        "split": {
            **options.model_dump(mode="json"),
            "made": made,
            "given": [split for split in SPLITS if pools.get(split)],
            "held_out_of_given_train": divided == "train",
        },
        "split_proof": proven,
    }
    return splits, facts, records


def _choose(
    recipe: Recipe,
    project: Project,
    examples: Examples,
    kept: dict[Split, list[int]],
    progress: Progress | None,
) -> tuple[list[int], list[dict[str, Any]]]:
    """Run the steps that come after the division; return the numbers of the training rows, and a record per step."""
    held_out: dict[Split, Examples] = {split: chosen(examples, kept[split]) for split in SPLITS if split != "train"}
    around = Around.of(recipe, held_out=held_out, path=lambda path: named_path(path, project))
    rows, records = kept["train"], []
    for index, step in enumerate(recipe.data.steps):
        if not after_split(step):
            continue
        before = chosen(examples, rows)
        watched = _watched(before, step.kind, progress)
        result = run_step(step, watched, place=recipe.place(f"data.steps.{index}"), around=around)
        rows = [rows[origin] for origin in result.origins]
        records.append(_record(step, result, [before], [result.examples], {}))
    return rows, records


def _what_to_divide(recipe: Recipe, pools: Mapping[str, Examples]) -> tuple[str | None, dict[Split, float]]:
    """Return the pool that Metier divides, and the share of each held-out split."""
    options = recipe.data.split
    wanted: dict[Split, float] = {"validation": options.validation, "test": options.test}
    if pools.get("auto"):
        return "auto", {split: share for split, share in wanted.items() if not pools.get(split)}
    if pools.get("train") and not pools.get("validation") and options.validation > 0:
        return "train", {"validation": options.validation}
    return None, {}


def _previous(recipe: Recipe, project: Project) -> Previous | None:
    """Return where the latest version put its rows, unless the rules of the division changed since.

    Rows of a held-out split that was given are left out: nobody put them there, and a twin of one is no row of it.
    """
    latest = Dataset.latest(project, recipe.name)
    if latest is None:
        return None
    options = recipe.data.split.model_dump(mode="json")
    if any(latest.manifest["split"].get(key) != value for key, value in options.items()):
        return None
    by_id: dict[str, Split] = {}
    by_key: dict[str, Split] = {}
    for split in SPLITS:
        if split != "train" and split in latest.manifest["split"]["given"]:
            continue
        examples = latest.rows(split)
        by_id.update((example.id, split) for example in examples)
        keys = group_keys(examples, recipe.data.split.group_by)
        by_key.update((key, split) for key in keys if key is not None)
    begun = latest.manifest["split_proof"].get("time", {}).get("boundaries", {})
    boundaries = {split: begun[split] for split in latest.manifest["split"]["made"] if split in begun}
    return Previous(f"{latest.ref} {latest.digest}", by_id, by_key, boundaries)


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


def _dated(pool: Examples, column: str, quarantine: Quarantine) -> Examples:
    """Return the examples that have a time; the others are refused."""
    refused = chronology.times_of(pool, column).refused
    for row, (reason, what) in refused.items():
        _refuse(pool[row], RowError(reason, what, field=column), quarantine)
    return chosen(pool, [row for row in range(len(pool)) if row not in refused])


def _refuse(example: Example, error: RowError, quarantine: Quarantine) -> None:
    raw = example.text if hasattr(example, "text") else comparable(example)
    quarantine.refuse(example.place, error, raw.encode())


def _code_digest() -> str:
    """Return a digest of this room's files: what they make of a row changes with them (formats and steps included).

    The word list of data/privacy counts, too.
    """
    files = [path for path in Path(__file__).parent.rglob("*") if path.suffix in (".py", ".gz")]
    return digest_bytes(b"".join(path.read_bytes() for path in sorted(files)))


__all__ = ["Dataset", "build", "divide", "inputs", "judge_labels", "prepare", "quarantine_file"]
