"""execute(run): what happens inside a run's process, in order: compose → train → evaluate → report."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from metier.actions import compiling
from metier.actions.compose import Parts, Progress, compose, remember
from metier.actions.data import prepare
from metier.actions.evaluate import check_targets, evaluate_parts
from metier.actions.ladder import gigabytes
from metier.actions.plan import TIGHT_SHARE, Plan, plan_parts, write_plan
from metier.actions.recipes import kept
from metier.actions.summary import disk_bytes
from metier.actions.train import check_figures
from metier.actions.trunk import bytes_there, clear, keep
from metier.core.errors import ConfigError, DataError, MachineError
from metier.core.project import Project, read_json, write_json
from metier.core.run import Run
from metier.core.types import SPLITS
from metier.data.versions import Dataset
from metier.governance.permission import permitted
from metier.models.memory import peak_bytes, release_freed_memory
from metier.training import checkpoint, loop
from metier.training.calibration import calibrate
from metier.training.validate import validate

EXAMPLE_ID = re.compile(r"\b[0-9a-f]{16}\b")
"""How `core.types.identify` writes an id."""

BEGAN_COMPILED = (
    "this run began with compiled blocks and goes on without: its last bits may differ from an uninterrupted one's"
)


class Stop(Protocol):
    """A request to stop; while `deferred`, it waits for the step in progress."""

    signal: int | None
    deferred: bool

    def now(self) -> None:
        """End the run's work here."""
        ...


@loop.memory_errors()
def execute(run: Run, project: Project, stop: Stop) -> None:
    """Compose the run, train what is left to train, evaluate, report."""
    recipe = kept(run.dir)
    check_targets(recipe, run)
    began = time.perf_counter()
    environment = read_json(run.dir / "environment.json") if (run.dir / "environment.json").exists() else {}
    pinned = environment.get("pinned", {})
    run.event("phase", name="prepare", text="data, base model, tokens")
    if dataset := run.status().get("dataset"):
        permitted(recipe, project, again=True, dataset=dataset)  # a run may have waited for long
    else:
        # The data report lies beside it.
        check_figures(recipe, prepare(recipe, project, progress=_progress(run), again=True))
    parts = compose(recipe, project, pinned=pinned, dataset=dataset, progress=_progress(run))
    remember(parts, environment)
    for name in ("trunk", compiling.KEY):  # decided later, and not anew
        if name in environment.get("choices", {}):
            parts.choices[name] = environment["choices"][name]
    parts.compiled = pinned.get(compiling.KEY, "")
    _write_environment(run, parts)
    _same_rows(run, parts.dataset)
    run.update(dataset=parts.dataset.ref, dataset_digest=parts.dataset.digest)
    for text in parts.notes:
        run.event("note", code="tokens", text=text)
    predicted = plan_parts(parts, progress=_progress(run))
    write_plan(run.dir / "plan.json", predicted)
    _fit(run, parts, predicted)
    if predicted.memory_bytes > TIGHT_SHARE * predicted.memory_available_bytes and release_freed_memory():
        run.event("note", code="memory", text="memory is tight: freed blocks go back to the system at once (slower)")
    run.event(
        "plan",
        steps=parts.plan.steps,
        examples=len(parts.train),
        tokens=predicted.tokens,
        seconds=predicted.seconds,
        validation_seconds=predicted.validation_seconds,
        memory_bytes=predicted.memory_bytes,
    )
    try:
        with named_rows(parts.dataset):
            _train(run, parts, stop, pinned, predicted.seconds, room="compiler" in predicted.memory_parts)
    finally:
        # A start that was stopped took its time too.
        before = run.status()
        run.update(
            seconds=round(time.perf_counter() - began + float(before.get("seconds", 0.0)), 3),
            peak_memory_bytes=max(peak_bytes(parts.policy.device), int(before.get("peak_memory_bytes", 0))),
        )
    run.event("phase", name="evaluate", text="the run and its untouched base on held-out rows")
    report = evaluate_parts(parts, run, progress=_progress(run))
    for text in report.warnings:
        run.event("note", code="evaluation", text=text)
    run.event("done", sentence=report.sentence, report=str(run.dir / "report.html"), verdict=report.verdict)


@contextlib.contextmanager
def named_rows(dataset: Dataset) -> Iterator[None]:
    """Name rows by where they stand in the user's files: the rooms below know the id of an example alone.

    Raises:
        DataError: E370, E371 as they came, with `place` for every id that the dataset holds.
    """
    try:
        yield
    except DataError as error:
        if error.number not in (370, 371):
            raise
        places: dict[str, str] = {}
        for split in SPLITS:
            for example in dataset.iterate(split):
                places.setdefault(example.id, example.place)
        named = [places[found] for found in EXAMPLE_ID.findall(error.received) if found in places]
        raise DataError(
            error.number,
            error.what,
            place=named[0] if named else error.place,
            received=EXAMPLE_ID.sub(lambda match: places.get(match[0], match[0]), error.received),
            expected=error.expected,
            fix=error.fix,
        ) from error


def _same_rows(run: Run, dataset: Dataset) -> None:
    """Refuse to go on with other rows than an earlier start of the run had: an erasure writes a version anew.

    Raises:
        ConfigError: E236.
    """
    began_with = run.status().get("dataset_digest")
    if began_with not in (None, dataset.digest):
        raise ConfigError(
            236,
            "The run cannot be resumed: its dataset changed since it began",
            place=str(run.dir),
            received=f"{dataset.ref} {dataset.digest[:12]}",
            expected=f"{began_with[:12]}",
            fix=f"metier runs resume {run.number} --fork starts a new run from the recipe",
        )


def _fit(run: Run, parts: Parts, predicted: Plan) -> None:
    """Refuse what the disk has no room for, and say what the memory is predicted not to hold.

    Memory is ±15 %, so that such a run may still come to its end.

    Raises:
        MachineError: E423.
    """
    if not predicted.fits_memory:
        live = predicted.memory_bytes - predicted.memory_parts.get("allocator", 0)
        of = f"{gigabytes(live)} of {gigabytes(predicted.memory_available_bytes)} GB of memory"
        run.event("note", code="fit", text=f"predicted not to fit: {of}; {'; or '.join(predicted.ladder)}")
    if predicted.fits_disk:
        return
    free = predicted.disk_free_bytes
    # An earlier start has written some of it, and is counted among what is taken.
    needed = predicted.disk_bytes - bytes_there(parts) - disk_bytes(run.checkpoints_dir)
    if needed > free:
        raise MachineError(
            423,
            "The disk has no room for what the run writes",
            place=str(parts.project.root),
            received=f"{gigabytes(free)} GB free",
            expected=f"{gigabytes(needed)} GB for checkpoints and what is kept of a frozen part",
            fix="; or ".join(predicted.ladder),
        )


def _write_environment(run: Run, parts: Parts) -> None:
    write_json(
        run.dir / "environment.json",
        {
            "pinned": parts.pinned,
            "choices": parts.choices,
            "digests": parts.digests,
            "versions": checkpoint.versions(parts.policy.device),
        },
    )


def _compile(run: Run, parts: Parts, pinned: Mapping[str, str], seconds_left: float, *, room: bool = True) -> None:
    chosen = compiling.choose(parts, seconds_left=seconds_left, pinned=pinned, room=room, progress=_progress(run))
    if pinned.get(compiling.KEY) == "on" and chosen.value == "off":
        run.event("note", code="torch_compile", text=f"{BEGAN_COMPILED}: {chosen.reason}")
    parts.compiled, parts.choices[compiling.KEY] = chosen.value, chosen.reason


def _train(run: Run, parts: Parts, stop: Stop, pinned: Mapping[str, str], seconds: float, *, room: bool = True) -> None:
    """Train to the end.

    Args:
        pinned: what an earlier start of the run chose.
        seconds: of the whole training, as predicted.
        room: whether the memory is predicted to hold the compiler, too.
    """
    state = loop.start(parts.policy, parts.plan)
    _resume(run, parts, state)
    if state.step < parts.plan.steps:
        began = time.perf_counter()
        if num_bytes := keep(parts, _progress(run)):
            run.event("trunk", seconds=time.perf_counter() - began, num_bytes=num_bytes)
        _compile(run, parts, pinned, seconds * (1 - state.step / parts.plan.steps), room=room)
        _write_environment(run, parts)
    run.event("phase", name="train", text=f"step {state.step} of {parts.plan.steps}")
    steps = loop.train(
        parts.policy,
        parts.method,
        lengths=parts.train.lengths,
        collate=parts.train.collate,
        plan=parts.plan,
        state=state,
    )
    saves = _Saves(run, parts)
    stop.deferred = True
    try:
        while state.step < parts.plan.steps and not parts.watch.done:
            info = next(steps)
            _tell(run, parts, state, info)
            last = info.step == parts.plan.steps
            figures: dict[str, float] = {}
            best = False
            if len(parts.validation) and (last or info.step % parts.every_steps == 0):
                began = time.perf_counter()
                figures = validate(
                    parts.policy,
                    parts.method,
                    parts.validation,
                    budget_tokens=state.micro_batch_tokens,
                    packing=parts.plan.training.packing,
                )
                best = parts.watch.see(info.step, figures)
                seconds = time.perf_counter() - began
                run.event("evaluation", step=info.step, best=best, seconds=seconds, **figures)
            done = last or parts.watch.done or stop.signal is not None
            saves.settle()
            if done or best or info.step % parts.save_steps == 0:
                saves.begin(state, figures, chosen=best or not len(parts.validation))
            if done:
                saves.settle(wait=True)
            if stop.signal is not None:
                stop.now()
    except Exception:
        saves.settle(wait=True)  # what was taken before is kept
        raise
    stop.deferred = False
    if stop.signal is not None:
        stop.now()  # it came after the last step had looked
    if parts.watch.done and state.step < parts.plan.steps:
        run.event(
            "note",
            code="early-stopping",
            text=f"stopped at step {state.step}: no better {parts.watch.metric} on validation in "
            f"{parts.watch.patience} evaluations; the best was step {parts.watch.best_step}",
        )
    clear(parts)
    _reload_best(run, parts)


@dataclass(slots=True)
class _Saves:
    """Checkpoints on their way: the next steps are taken while the disk works on the last one.

    A checkpoint is chosen, and older ones are deleted, only once it is sealed.
    """

    run: Run
    parts: Parts
    _writing: checkpoint.Writing | None = None
    _step: int = 0
    _figures: dict[str, float] = field(default_factory=dict)
    _chosen: bool = False

    def begin(self, state: loop.State, figures: dict[str, float], *, chosen: bool) -> None:
        """Begin the checkpoint of this step; `chosen`: it is the best so far."""
        self.settle(wait=True)
        self._step, self._figures, self._chosen = state.step, figures, chosen
        self._writing = checkpoint.begin(
            self.run.checkpoints_dir, self.parts.policy, state, digests=self.parts.digests, figures=figures
        )

    def settle(self, *, wait: bool = False) -> None:
        """Finish the checkpoint that is on its way, if it is sealed, or `wait` until it is.

        Raises:
            MachineError: E420–E422, the disk.
        """
        writing = self._writing
        if writing is None or not (wait or writing.done):
            return
        self._writing = None
        path = writing.wait()
        self.run.event("checkpoint", step=self._step, path=path.name)
        if self._chosen:
            _choose(self.run, self.parts, path.name, self._step, self._figures)
        keep = self.parts.recipe.training.save_total_limit
        checkpoint.rotate(self.run.checkpoints_dir, keep=keep, best=_best(self.run), sealed=path.name)


def _resume(run: Run, parts: Parts, state: loop.State) -> None:
    """Continue from the newest checkpoint that verifies; replay the evaluations it had seen."""
    path, notes = checkpoint.newest(run.checkpoints_dir)
    for text in notes:
        run.event("note", code="checkpoint", text=text)
    if path is None:
        return
    before = read_json(path / "state.json")["digests"]
    # An entry that an older Metier did not write is not a change.
    changed = [k for k, v in parts.digests.items() if before.get(k, v) != v]
    if changed:
        raise ConfigError(
            236,
            f"The run cannot be resumed: its {' and '.join(changed)} changed since {path.name} was written",
            place=str(run.dir),
            fix=f"metier runs resume {run.number} --fork starts a new run from the recipe",
        )
    saved = checkpoint.restore(path, parts.policy, state)
    for step, value in sorted(_seen(run, parts.watch.metric, state.step).items()):
        parts.watch.see(step, {parts.watch.metric: value})
    run.event("note", code="resumed", text=f"resumed from {path.name}")
    under = checkpoint.versions(parts.policy.device)
    others = [k for k, v in under.items() if saved["versions"].get(k, v) != v]  # an older Metier wrote fewer
    if others:
        text = f"{', '.join(others)} changed since then: the result may differ from an unbroken run's in the last bits"
        run.event("note", code="versions", text=text)
    _catch_up(run, parts, state.step)


def _seen(run: Run, metric: str, last_step: int) -> dict[int, float]:
    """Return the deciding figure of each evaluation up to a step, by step.

    A power cut may have taken lines of events.jsonl: what best.json and the checkpoints say of themselves counts too.
    """
    told = [(e["step"], e) for e in run.events("evaluation")]
    best = read_json(run.dir / "best.json") if (run.dir / "best.json").exists() else {}
    told.append((best.get("step", 0), best.get("figures", {})))
    for path in checkpoint.listing(run.checkpoints_dir):
        if not checkpoint.problems(path, only=("state.json",)):
            saved = read_json(path / "state.json")
            told.append((saved["step"], saved["figures"]))
    return {step: figures[metric] for step, figures in told if step <= last_step and metric in figures}


def _catch_up(run: Run, parts: Parts, step: int) -> None:
    """Name the best checkpoint again where a kill came between its save and best.json, or where it was damaged."""
    if len(parts.validation):
        if parts.watch.best_value is None:
            return
        step = parts.watch.best_step
    path = run.checkpoints_dir / f"step-{step:06d}"
    if _best(run) != path.name and not checkpoint.problems(path):
        _choose(run, parts, path.name, step, read_json(path / "state.json")["figures"])


def _choose(run: Run, parts: Parts, name: str, step: int, figures: dict[str, float]) -> None:
    """Write down which checkpoint is evaluated, and why."""
    chosen_by = parts.watch.metric if figures else "last step"
    write_json(run.dir / "best.json", {"checkpoint": name, "step": step, "figures": figures, "chosen_by": chosen_by})


def _tell(run: Run, parts: Parts, state: loop.State, info: loop.StepInfo) -> None:
    """Write down a step, and what the loop had to say about it."""
    while state.notes:
        run.event("note", code="memory", text=state.notes.pop(0))
    run.event(
        "step",
        step=info.step,
        steps=parts.plan.steps,
        loss=info.loss,
        learning_rate=info.learning_rate,
        grad_norm=info.grad_norm,
        tokens=info.tokens,
        slots=info.slots,
        supervised=info.supervised,
        examples=info.examples,
        seconds=info.seconds,
        tokens_per_second=info.tokens / info.seconds,
        seconds_left=state.seconds / state.step * (parts.plan.steps - state.step),
    )


def _reload_best(run: Run, parts: Parts) -> None:
    """Load the chosen checkpoint into the policy: what is evaluated is what is on disk."""
    name = _best(run)
    if name is None:
        return
    path = run.checkpoints_dir / name
    wrong = checkpoint.problems(path)
    if wrong:
        raise ConfigError(
            237,
            f"The best checkpoint does not verify: {wrong[0]}",
            place=str(path),
            fix=f"metier runs resume {run.number} --fork",
        )
    parts.policy.restore(path)
    _calibrate(run, parts)


def _calibrate(run: Run, parts: Parts) -> None:
    """Fit the head's temperature on validation and keep it beside the choice of the checkpoint."""
    if not getattr(parts.method.options, "calibrate", False):
        return
    found = calibrate(
        parts.policy,
        parts.validation,
        budget_tokens=parts.plan.micro_batch_tokens,
        packing=parts.plan.training.packing,
    )
    if found is None:
        return
    write_json(run.dir / "best.json", {**read_json(run.dir / "best.json"), "temperature": found.temperature})
    run.event(
        "note",
        code="calibration",
        text=f"confidences are divided by a temperature of {found.temperature:.2f}, fitted on {found.rows:,} rows of "
        f"validation: their loss is {found.loss_after:.3f} with it, {found.loss_before:.3f} without; no answer changes",
    )


def _best(run: Run) -> str | None:
    path = run.dir / "best.json"
    return str(read_json(path)["checkpoint"]) if path.exists() else None


def _progress(run: Run) -> Progress:
    last: dict[str, Any] = {"time": 0.0, "what": ""}

    def report(what: str, done: int, total: int | None) -> None:
        moment = time.monotonic()
        if what != last["what"] or moment - last["time"] > 0.5:
            last.update(time=moment, what=what)
            run.event("progress", what=what, done=done, total=total)

    return report
