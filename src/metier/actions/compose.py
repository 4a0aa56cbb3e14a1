"""compose(recipe) → Parts: everything a run needs, built from its resolved recipe and pinned choices.

The order is the journey's: dataset → base → encoder → feeds → policy → plan. Nothing here trains.
"""

from __future__ import annotations

import math
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from metier.actions import packing
from metier.actions.recipes import chat_template
from metier.core.errors import ConfigError, DataError, MachineError
from metier.core.locks import sharing
from metier.core.project import Project, digest_json, read_json, write_json
from metier.core.recipe import Recipe, semantic_values
from metier.core.types import Labelled, Split
from metier.data.batching import steps_per_epoch
from metier.data.dataset import build
from metier.data.lengths import LengthReport
from metier.data.template import Encoder
from metier.data.tokens import TokenTable
from metier.data.versions import Dataset
from metier.models import base as bases
from metier.models import fused_choice, probe
from metier.models import policy as policies
from metier.models.policy import Policy
from metier.training import loop, optim
from metier.training.feed import Feed
from metier.training.method import Facts, Method
from metier.training.validate import Watch

EVALUATIONS_PER_RUN = 10
CPU_MICRO_BATCH_TOKENS = 4096
GPU_MICRO_BATCH_TOKENS = 16384

Progress = Callable[[str, int, int | None], None]


@dataclass(slots=True, kw_only=True)
class Parts:
    """What a run is made of."""

    recipe: Recipe
    project: Project
    dataset: Dataset
    base: bases.Base
    encoder: Encoder
    method: Method
    policy: Policy
    train: Feed
    validation: Feed
    lengths: LengthReport
    validation_lengths: LengthReport
    plan: loop.Plan
    watch: Watch
    every_steps: int
    save_steps: int
    choices: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    compiled: str = ""
    """`on` or `off`, once it is decided whether the blocks are compiled."""

    @property
    def digests(self) -> dict[str, str]:
        """Digests of what the result depends on; a resume compares them."""
        return {
            "dataset": self.dataset.digest,
            "base": self.base.digest,
            "base config": self.base.config_digest,
            "tokens": self.encoder.fingerprint(),
            "recipe": digest_json(semantic_values(self.recipe)),
        }

    @property
    def pinned(self) -> dict[str, str]:
        """What a later start of the same run takes over instead of choosing anew."""
        return {
            **self.base.choices,
            "learning_rate": repr(self.plan.peak_learning_rate),
            "micro_batch_tokens": str(self.plan.micro_batch_tokens),
            "every_steps": str(self.every_steps),
            "save_steps": str(self.save_steps),
            **({"packing": "on" if self.plan.training.packing else "off"} if self.recipe.training.packing else {}),
            **({"torch_compile": self.compiled} if self.compiled else {}),
        }


@sharing("preparing a run")
def compose(
    recipe: Recipe,
    project: Project,
    *,
    pinned: Mapping[str, str] | None = None,
    dataset: str | None = None,
    trained: Path | None = None,
    progress: Progress | None = None,
) -> Parts:
    """Build the parts of a run.

    Args:
        trained: the checkpoint whose weights the policy will get: what its head was trained on stands there.
        dataset: the version an earlier start of the same run used (`data:support@v3`), whatever the sources hold now.
        pinned: `Parts.pinned` of an earlier start of the same run: reused, where the recipe says `auto`.
        progress: called with (what, done, total).

    Raises:
        ConfigError, DataError, MachineError: whatever the rooms below find wrong.
    """
    rows = Dataset.find(project, dataset) if dataset else build(recipe, project, progress=progress)
    method = Method.of(
        recipe.method.kind, recipe.method.options, facts_of(rows, trained), place=recipe.place("method.kind")
    )
    method.check(rows.manifest["kinds"])
    kept = _choices(recipe, pinned or {})
    if progress:
        progress("loading the base model", 0, None)
    base = bases.load(recipe.model, resolve=project.path, choices=kept)
    notes: Counter[str] = Counter()
    # An encoder counts what it cuts, so each split has its own.
    encoder = encoder_of(recipe, project, rows, base)
    train, lengths = _feed("train", project, rows, method, encoder, progress)
    notes.update(encoder.notes)
    encoder = encoder_of(recipe, project, rows, base)
    validation, validation_lengths = _feed("validation", project, rows, method, encoder, progress)
    notes.update(encoder.notes)
    if not len(train):
        raise DataError(
            354,
            "No training example has a supervised token left",
            place=recipe.place("training.max_length"),
            received=f"{lengths.cut_rows} rows cut at training.max_length={recipe.training.max_length}",
            fix="a larger training.max_length, or training.truncation=left",
        )
    policy = policies.build(
        base,
        recipe.adapter.kind,
        recipe.adapter.options,
        head=method.head(),
        encoder=encoder,
        seed=recipe.training.seed,
    )
    own_head = base.kind == "causal" and policy.head is None and policy.output_layer() is None
    plan, choices = _plan(recipe, policy, method, train, kept)
    packed = packing.choose(policy, train, plan, kept)
    plan = replace(plan, training=plan.training.model_copy(update={"packing": packed.value == "on"}))
    choices["packing"] = packed.reason
    every_steps = _every_steps(recipe, plan.steps, kept, choices)
    save_steps = _save_steps(recipe, every_steps, kept, choices)
    if own_head:
        choices["output"] = "the model's own, over every token (slower): it is not of the form softcap(scale·(W h + b))"
    if recipe.training.num_threads != "auto":
        choices["threads"] = f"{recipe.training.num_threads} because the recipe says so"
    return Parts(
        recipe=recipe,
        project=project,
        dataset=rows,
        base=base,
        encoder=encoder,
        method=method,
        policy=policy,
        train=train,
        validation=validation,
        lengths=lengths,
        validation_lengths=validation_lengths,
        plan=plan,
        watch=Watch(
            _deciding(method),
            recipe.training.early_stopping_patience,
            first_step=math.ceil(len(train) / recipe.training.batch_size),
        ),
        every_steps=every_steps,
        save_steps=save_steps,
        choices={**base.reasons, **choices},
        notes=[
            *(f"{count} × {note}" for note, count in sorted(notes.items())),
            *_length_notes(recipe, encoder, {"train": lengths, "validation": validation_lengths}),
        ],
    )


# ───────────────────────────────────────────────────────────────────────────── pieces


def remember(parts: Parts, environment: Mapping[str, Any]) -> None:
    """Give what an earlier start chose its first reason back; `pinned` alone says only that it was chosen.

    Args:
        environment: the run's environment.json as it was before this start.
    """
    reasons = environment.get("choices", {})
    taken_over = [name for name, reason in parts.choices.items() if reason.endswith(probe.BEGAN_WITH)]
    parts.choices.update({name: reasons[name] for name in taken_over if name in reasons})


def for_inference(recipe: Recipe, pinned: Mapping[str, str]) -> tuple[Recipe, dict[str, str]]:
    """Return recipe and pins with which a run's model is used on this machine, which need not be the one it began on.

    Device and threads are those of this machine. The precision belongs to the model, and stays; only bfloat16 on
    another device than the run's is chosen anew, since there it may be emulated, hundreds of times slower.
    """
    device = recipe.model.device
    try:
        found = probe.choose_device(device).value
    except MachineError:  # the recipe names one that is not here
        recipe = recipe.with_values({"model.device": "auto"})
        found = probe.choose_device().value
    kept = {name: value for name, value in pinned.items() if name not in ("device", "threads", fused_choice.KEY)}
    if found.partition(":")[0] != pinned.get("device", found).partition(":")[0]:
        kept.pop("micro_batch_tokens", None)
        kept.pop("packing", None)
        if kept.get("dtype") == "bfloat16":
            kept.pop("dtype")
    return recipe, kept


def _choices(recipe: Recipe, pinned: Mapping[str, str]) -> dict[str, str]:
    """What is not chosen anew: what an earlier start chose, unless the recipe says it (execution keys may change)."""
    said = {
        "device": recipe.model.device,
        "learning_rate": recipe.training.learning_rate,
        "micro_batch_tokens": recipe.training.micro_batch_tokens,
        "every_steps": recipe.evaluation.every_steps,
        "save_steps": recipe.training.save_steps,
        "packing": "auto" if recipe.training.packing else "off",
    }
    kept = {name: value for name, value in pinned.items() if said.get(name, "auto") == "auto"}
    if recipe.model.device not in ("auto", pinned.get("device")):
        kept.pop("micro_batch_tokens", None)  # it was the rule for the other device
        kept.pop("packing", None)  # and this its kernels' proof
    if recipe.training.num_threads != "auto":
        kept["threads"] = str(recipe.training.num_threads)
    return kept


def _deciding(method: Method) -> str:
    """Which validation figure chooses the checkpoint.

    With several labels per row the share of right ones stands still while every answer is still "none": the loss moves.
    """
    single = method.kind == "classify" and method.facts.problem_type in (None, "single_label")
    return "accuracy" if single else "loss"


def facts_of(dataset: Dataset, trained: Path | None = None) -> Facts:
    """Return what a method may know of the dataset: labels, problem type, mean and spread of numeric targets.

    Those of a checkpoint are what it was `trained` with: an erasure may have taken rows since, and moved them.
    """
    problem_type = dataset.manifest.get("problem_type")
    mean, scale = 0.0, 1.0
    if problem_type == "regression" and trained is not None and (trained / policies.HEAD_FILE).is_file():
        head = policies.read_head(trained)
        mean, scale = head.target_mean, head.target_scale
    elif problem_type == "regression":
        targets = np.array([float(e.target) for e in dataset.examples("train") if isinstance(e, Labelled)])  # type: ignore[arg-type]
        mean, scale = float(targets.mean()), float(targets.std()) or 1.0
    return Facts(tuple(dataset.manifest.get("labels") or ()), problem_type, mean, scale)


def encoder_of(recipe: Recipe, project: Project, dataset: Dataset, base: bases.Base) -> Encoder:
    """Return the one encoder of a run; it cuts at the model's context window when that is shorter than max_length."""
    window = base.context_window
    return Encoder(
        base.tokenizer,
        max_length=min(recipe.training.max_length, window) if window else recipe.training.max_length,
        truncation=recipe.training.truncation,
        prompt=recipe.data.prompt,
        chat_template=chat_template(recipe, project),
        labels=tuple(dataset.manifest.get("labels") or ()),
        assistant_only_loss=bool(recipe.method.options.get("assistant_only_loss", True)),
        place=recipe.place,
    )


def _length_notes(recipe: Recipe, encoder: Encoder, reports: Mapping[str, LengthReport]) -> list[str]:
    """Name the rows that were cut or dropped, a line per split: by max_length, or by a context window below it."""
    own = encoder.max_length == recipe.training.max_length
    limit = f"training.max_length={encoder.max_length}" if own else f"the base's {encoder.max_length} tokens"
    return [note for split, report in reports.items() if (note := report.note(split, limit))]


def feed_key(split: Split, dataset: Dataset, method: Method, encoder: Encoder) -> str:
    """Return the digest of what decides the tokens of a split."""
    return digest_json(
        {
            "tokens": encoder.fingerprint(),
            "dataset": dataset.digest,
            "split": split,
            "method": [method.kind, method.options.model_dump(mode="json")],
        }
    )


def _feed(
    split: Split,
    project: Project,
    dataset: Dataset,
    method: Method,
    encoder: Encoder,
    progress: Progress | None,
) -> tuple[Feed, LengthReport]:
    """Tokenise a split once; the next run with the same rows, tokenizer and options maps the same files."""
    key = feed_key(split, dataset, method, encoder)
    folder = project.cache_dir / "tokens" / key[:32]
    # What tokenising did to the rows is kept beside the table: a cached table must not hide what was cut.
    beside = folder.with_suffix(".json")
    if not beside.exists():
        shutil.rmtree(folder, ignore_errors=True)  # a kill came between the table and its report: both are made again
    if progress and not folder.exists():
        progress(f"tokens of {split}", 0, dataset.count(split))
    table = TokenTable.cached(folder, key, method.encode(dataset.examples(split), encoder))
    if encoder.report.n or not beside.exists():
        told = {"report": asdict(encoder.report), "notes": dict(encoder.notes)}
        write_json(beside, {"dataset": dataset.digest, **told})  # an erasure looks for tables of no version
    kept = read_json(beside)
    encoder.notes.clear()
    encoder.notes.update(kept["notes"])
    facts: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in kept["report"].items()}
    facts["percentiles"] = {int(k): v for k, v in facts["percentiles"].items()}
    report = LengthReport(**facts)
    return Feed.of(table, pad_id=encoder.pad_id, facts=method.facts), report


def _plan(
    recipe: Recipe, policy: Policy, method: Method, train: Feed, kept: Mapping[str, str]
) -> tuple[loop.Plan, dict[str, str]]:
    training = recipe.training
    per_epoch = steps_per_epoch(len(train), training.batch_size)
    steps = max(1, math.ceil(per_epoch * training.num_train_epochs))
    if training.max_steps is not None:
        steps = min(steps, training.max_steps)
    choices: dict[str, str] = {}
    if "learning_rate" in kept:
        rate = float(kept["learning_rate"])
        choices["learning_rate"] = f"{rate:g} {probe.BEGAN_WITH}"
    else:
        chosen = optim.learning_rate(training, adapter=recipe.adapter.kind, method=method.kind, width=policy.width)
        rate = chosen.value
        choices["learning_rate"] = f"{rate:g} because {chosen.reason}"
    tokens = training.micro_batch_tokens
    if "micro_batch_tokens" in kept:
        tokens = int(kept["micro_batch_tokens"])
        choices["micro_batch_tokens"] = f"{tokens} {probe.BEGAN_WITH}"
    elif tokens == "auto":
        tokens = CPU_MICRO_BATCH_TOKENS if policy.device.type == "cpu" else GPU_MICRO_BATCH_TOKENS
        choices["micro_batch_tokens"] = (
            f"{tokens} because that is the rule for {policy.device.type}; halved if memory runs out"
        )
    plan = loop.Plan(
        steps=steps,
        peak_learning_rate=rate,
        warmup_steps=round(training.warmup_ratio * steps),
        micro_batch_tokens=tokens,
        training=training,
        head_multiplier=getattr(method.options, "head_learning_rate_multiplier", 1.0),
    )
    return plan, choices


def _every_steps(recipe: Recipe, steps: int, kept: Mapping[str, str], choices: dict[str, str]) -> int:
    """Steps between evaluations; an automatic choice writes its reason into `choices`."""
    said = recipe.evaluation.every_steps
    if said != "auto":
        return said
    if "every_steps" in kept:
        choices["every_steps"] = f"{kept['every_steps']} {probe.BEGAN_WITH}"
        return int(kept["every_steps"])
    chosen = max(1, round(steps / EVALUATIONS_PER_RUN))
    choices["every_steps"] = f"{chosen} because that makes about {EVALUATIONS_PER_RUN} evaluations in {steps:,} steps"
    return chosen


def _save_steps(recipe: Recipe, every_steps: int, kept: Mapping[str, str], choices: dict[str, str]) -> int:
    """Steps between checkpoints; an automatic choice writes its reason into `choices`."""
    said = recipe.training.save_steps
    if said != "auto":
        return said
    if "save_steps" in kept:
        choices["save_steps"] = f"{kept['save_steps']} {probe.BEGAN_WITH}"
        return int(kept["save_steps"])
    choices["save_steps"] = f"{every_steps} because each evaluation is followed by a checkpoint"
    return every_steps


def temperature_of(run_dir: Path, checkpoint: Path) -> float:
    """Return the temperature of a checkpoint's task head: it was fitted for the chosen one, the others have 1."""
    best = read_json(run_dir / "best.json") if (run_dir / "best.json").is_file() else {}
    return float(best.get("temperature", 1.0)) if best.get("checkpoint") == checkpoint.name else 1.0


def checkpoint_of(run_dir: Path, which: str = "best") -> Path:
    """Return the directory of a run's `best` or `last` checkpoint, or of a step's number.

    Raises:
        ConfigError: E235, the run has no such checkpoint.
    """
    from metier.training import checkpoint

    folder = run_dir / "checkpoints"
    if which == "best" and (run_dir / "best.json").is_file():
        return folder / str(read_json(run_dir / "best.json")["checkpoint"])
    if which.isdecimal() and (folder / f"step-{int(which):06d}").is_dir():
        return folder / f"step-{int(which):06d}"
    path, _ = checkpoint.newest(folder)
    if path is None or which not in ("best", "last"):
        raise ConfigError(
            235,
            f"The run has no checkpoint `{which}`",
            place=str(run_dir),
            expected=", ".join(p.name for p in checkpoint.listing(folder)) or "no checkpoint yet",
            fix="metier runs show",
        )
    return path
