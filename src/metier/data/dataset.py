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
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from metier.core.catalog import catalog
from metier.core.errors import ConfigError, DataError, RowError
from metier.core.extras import installed
from metier.core.locks import sharing
from metier.core.project import Project, digest_bytes, digest_json
from metier.core.recipe import Kind, Recipe
from metier.core.types import SPLITS, Example, Split
from metier.data import canaries, chronology, review
from metier.data.labels import judge_labels
from metier.data.privacy import anonymity, columns, vault
from metier.data.prompt import check_version, literals
from metier.data.quarantine import Quarantine
from metier.data.reading import (
    Collected,
    Progress,
    check_sources,
    collect,
    kept_columns,
    named_path,
    problem_type_option,
    source_path,
)
from metier.data.rows import BadRow, shown_column
from metier.data.similar import comparable, liken
from metier.data.source import source_digest
from metier.data.split import Previous, assign, group_keys, proof
from metier.data.steps import (
    Around,
    StepResult,
    after_split,
    check_steps,
    columns_of,
    files_of,
    num_characters,
    packages_of,
    run_step,
    run_step_on_given,
)
from metier.data.versions import Dataset, find_made, write_version

Pools = dict[str, list[Example]]
"""Examples by the split their source names: `train`, `validation`, `test` or `auto`."""


@sharing("preparing rows")
def build(recipe: Recipe, project: Project, *, progress: Progress | None = None) -> Dataset:
    """Return the dataset version that a recipe describes, made now or found.

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
    collected = collect(recipe, project, progress)
    bad_rows_file = quarantine_file(recipe, project, inputs_digest)
    _settle(collected.quarantine, bad_rows_file, recipe, project)
    with _vault(recipe, project):
        pools, steps = prepare(recipe, collected, progress)
    previous = _previous(recipe, project)
    num_unread = len(collected.quarantine.rows)
    if progress:
        progress("looking for duplicates", 0, None)
    splits, split_facts, later = divide(recipe, project, pools, previous, collected.quarantine, progress)
    _settle(collected.quarantine, bad_rows_file, recipe, project)
    label_facts = judge_labels(splits, recipe)
    steps += later
    _keep_reviews(steps, review.folder(project, recipe.name), inputs_digest, project)
    facts = {
        "task": recipe.objective.task,
        "sources": _source_facts(collected, collected.quarantine.rows[num_unread:]),
        "quarantine": {
            "num_rows": collected.quarantine.num_rows,
            "rows": len(collected.quarantine.rows),
            "in_division": len(collected.quarantine.rows) - num_unread,
            "share": collected.quarantine.share,
            "reasons": collected.quarantine.reasons(),
            "file": bad_rows_file.relative_to(project.root).as_posix() if collected.quarantine.rows else None,
        },
        "steps": steps,
        **split_facts,
        **label_facts,
        "privacy": _privacy(recipe, project, splits),
        "canaries": _plant(recipe, splits),
        "prompt": recipe.data.prompt.model_dump(mode="json"),
        "parents": [previous.name] if previous and split_facts["split"]["made"] else [],
    }
    if progress:
        progress("writing", 0, None)
    return write_version(project, recipe.name, splits, facts, inputs_digest=inputs_digest)


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
    drawing = any(options.strategy == "surrogate" for options in _deidentifying(recipe))
    return vault.opened(vault.file(project, recipe.name)) if drawing else nullcontext()


def _privacy(recipe: Recipe, project: Project, splits: Mapping[Split, Sequence[Example]]) -> dict[str, Any]:
    """Return what the manifest says of the privacy of the rows that are written."""
    steps = _deidentifying(recipe)
    drawn = any(options.strategy == "surrogate" for options in steps)
    subjects = [s.permission.subject_key for s in recipe.data.sources if s.permission and s.permission.subject_key]
    return anonymity.statement(
        [example for examples in splits.values() for example in examples],
        profiles=[options.profile for options in steps],
        vault=vault.file(project, recipe.name).relative_to(project.root).as_posix() if drawn else None,
        quasi_identifiers=sorted({column for options in steps for column in options.quasi_identifiers}),
        named={column for options in steps for column in options.columns},
        linking=sorted({*subjects, *filter(None, [recipe.data.split.group_by])}),
        subjects=sorted(set(subjects)),
    )


def _plant(recipe: Recipe, splits: dict[Split, list[Example]]) -> dict[str, Any]:
    """Add the canaries to the training rows; return what the manifest says of them, which is not their digits."""
    options = recipe.data.canaries
    planted = canaries.plant(splits["train"], options, seed=recipe.data.split.seed, place=recipe.place("data.canaries"))
    splits["train"] = [*splits["train"], *planted]
    return {**options.model_dump(mode="json"), "rows": len(planted)} if planted else {}


def _deidentifying(recipe: Recipe) -> list[Any]:
    """Return the options of the recipe's `deidentify` steps, in order."""
    return [catalog("steps").options(s.kind, s.options) for s in recipe.data.steps if s.kind == "deidentify"]


def prepare(
    recipe: Recipe, collected: Collected, progress: Progress | None = None
) -> tuple[Pools, list[dict[str, Any]]]:
    """Run the steps that come before the division; return the examples by their given split, and a record per step.

    Steps see train and auto rows together; given validation and test rows are rewritten like them but never dropped.

    Raises:
        ConfigError: E210, E211; E215 a column that no row has.
        DataError: E305, nothing is left.
    """
    pools: Pools = {}
    for source in collected.sources:
        pools.setdefault(source.source.split, []).extend(source.examples)
    _check_columns(recipe, pools)
    around, records = Around.of(recipe), []
    for index, step in enumerate(recipe.data.steps):
        place = recipe.place(f"data.steps.{index}")
        if after_split(step):
            continue
        if progress:
            progress(step.kind, index, len(recipe.data.steps))
        before = [example for examples in pools.values() for example in examples]
        free = [(name, example) for name in ("train", "auto") for example in pools.get(name, ())]
        result = run_step(step, [example for _, example in free], place=place, around=around)
        given = {
            name: run_step_on_given(step, pools[name], place=place, around=around)
            for name in ("validation", "test")
            if pools.get(name)
        }
        pools = {name: r.examples for name, r in given.items()}
        for origin, example in zip(result.origins, result.examples, strict=True):
            pools.setdefault(free[origin][0], []).append(example)
        after = [example for examples in pools.values() for example in examples]
        records.append(_record(step, result, before, after, {name: r.note for name, r in given.items()}))
    if not any(pools.values()):
        raise DataError(
            305,
            "No examples are left",
            place=recipe.place("data"),
            received=f"{sum(len(s.examples) for s in collected.sources):,} rows before the steps",
            fix="look at what each step drops: metier data check",
        )
    return pools, records


def _check_columns(recipe: Recipe, pools: Pools) -> None:
    """Refuse a misspelt column of `deidentify`: the one that was meant would stay as it is.

    Raises:
        ConfigError: E215.
    """
    for index, step in enumerate(recipe.data.steps):
        for column in columns_of([step]) if step.kind == "deidentify" else ():
            if any(pools.values()) and not any(column in e.meta for examples in pools.values() for e in examples):
                known = sorted({name for examples in pools.values() for e in examples[:100] for name in e.meta})
                raise ConfigError(
                    215,
                    f"`deidentify` names the column `{column}`, which no row has",
                    place=recipe.place(f"data.steps.{index}"),
                    expected=", ".join(map(shown_column, known[:20])) or "no column stays beside the text",
                    fix="write the column as the source has it, or leave it out",
                )


def _record(
    step: Kind, result: StepResult, before: list[Example], after: list[Example], given: dict[str, str]
) -> dict[str, Any]:
    """Return what the manifest says of a step; `review` is taken out again when the list is written."""
    return {
        "name": step.kind,
        "options": step.options,
        "after_split": after_split(step),
        "rows_in": len(before),
        "rows_out": len(after),
        "characters_in": sum(map(num_characters, before)),
        "characters_out": sum(map(num_characters, after)),
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
    pools: Pools,
    previous: Previous | None,
    quarantine: Quarantine,
    progress: Progress | None = None,
) -> tuple[dict[Split, list[Example]], dict[str, Any], list[dict[str, Any]]]:
    """Return the examples by split, the manifest's `split` and `split_proof`, and a record per step on train.

    Raises:
        DataError: E322, no train rows; E324, too few different times.
    """
    options = recipe.data.split
    divided, shares = _what_to_divide(recipe, pools)
    pool = pools[divided] if divided else []
    by_time = options.time_by if any(shares.values()) else None
    previous = previous.within({"train", *(split for split in shares if shares[split] > 0)}) if previous else None
    if by_time:
        pool = _dated(pool, by_time, quarantine)
    fixed = [(example, split) for split in SPLITS if split != divided for example in pools.get(split, ())]
    examples = [*pool, *(example for example, _ in fixed)]
    texts = [comparable(e, literals(recipe.data.prompt.user)) for e in examples]
    likeness = liken(texts, options.near_duplicates)
    keys = group_keys(examples, options.group_by)
    size = len(pool)
    # Rows of a given train split stand right behind those that are divided: what is alike to one is no held-out row.
    reach = size + (len(pools.get("train", ())) if divided == "auto" else 0)
    all_groups = likeness.of(range(reach)).groups(keys[:reach])
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
        split = assigned[row] if row < size else fixed[row - size][1]
        if split is None:
            _refuse(
                pool[row],
                RowError("bridges-splits", "a new row is alike to rows of two splits of the earlier version"),
                quarantine,
            )
        else:
            kept[split].append(row)
    kept["train"], records = _choose(recipe, project, examples, kept, progress)
    splits: dict[Split, list[Example]] = {split: [examples[row] for row in rows] for split, rows in kept.items()}
    if not splits["train"]:
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
    proven = proof([examples[r] for r in rows], final, likeness.of(rows), [keys[r] for r in rows], made=made)
    if options.time_by:  # of given splits, too, which are not divided by it
        times = chronology.times_of([examples[r] for r in rows], options.time_by)
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
    examples: list[Example],
    kept: dict[Split, list[int]],
    progress: Progress | None,
) -> tuple[list[int], list[dict[str, Any]]]:
    """Run the steps that come after the division; return the numbers of the training rows, and a record per step."""
    held_out: dict[Split, list[Example]] = {s: [examples[r] for r in kept[s]] for s in SPLITS if s != "train"}
    around = Around.of(recipe, held_out=held_out, path=lambda path: named_path(path, project))
    rows, records = kept["train"], []
    for index, step in enumerate(recipe.data.steps):
        if not after_split(step):
            continue
        if progress:
            progress(step.kind, index, len(recipe.data.steps))
        before = [examples[row] for row in rows]
        result = run_step(step, before, place=recipe.place(f"data.steps.{index}"), around=around)
        rows = [rows[origin] for origin in result.origins]
        records.append(_record(step, result, before, result.examples, {}))
    return rows, records


def _what_to_divide(recipe: Recipe, pools: Pools) -> tuple[str | None, dict[Split, float]]:
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
        examples = latest.examples(split)
        by_id.update({example.id: split for example in examples})
        keys = group_keys(examples, recipe.data.split.group_by)
        by_key.update({key: split for key in keys if key is not None})
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


def _source_facts(collected: Collected, refused: Sequence[BadRow]) -> list[dict[str, Any]]:
    """Return the manifest's `sources`, in which the rows that the division `refused` are no rows but quarantined."""
    left = Counter(row.place for row in refused)
    found = []
    for source in collected.sources:
        mine = Counter(e.place for e in source.examples if e.place in left) & left if left else Counter[str]()
        left -= mine
        rows, bad = source.facts["rows"] - mine.total(), source.facts["quarantined"] + mine.total()
        found.append({**source.facts, "rows": rows, "quarantined": bad})
    return found


def _dated(pool: list[Example], column: str, quarantine: Quarantine) -> list[Example]:
    """Return the examples that have a time; the others are refused."""
    refused = chronology.times_of(pool, column).refused
    for row, (reason, what) in refused.items():
        _refuse(pool[row], RowError(reason, what, field=column), quarantine)
    return [example for row, example in enumerate(pool) if row not in refused]


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
