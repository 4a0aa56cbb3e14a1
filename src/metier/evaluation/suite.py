"""Measure a run against its untouched base on held-out rows and say whether it was worth it.

`evaluate` asks every system (systems.py), turns answers into figures with intervals (compare.py), applies the rules
(verdict.py) and fills the Report that evaluation/report.py renders. The same input gives the same report.
"""

from __future__ import annotations

from collections.abc import Sequence

from metier.core.page import number
from metier.core.project import now
from metier.evaluation import detail, examples, exposure, forgetting, slices
from metier.evaluation.compare import Resampler, difference, figure, measure
from metier.evaluation.inputs import EvaluationInput, chosen_metrics, situation
from metier.evaluation.records import write_predictions
from metier.evaluation.result import DataSummary, Difference, Figure, Report, System, TargetResult
from metier.evaluation.systems import Asked, ask_all
from metier.evaluation.verdict import Compared, Evidence, judge, judge_targets
from metier.metrics import ANSWERS, Metric, metrics_for

__all__ = ["EvaluationInput", "evaluate"]


def evaluate(given: EvaluationInput) -> Report:
    """Return the report of a run.

    Raises:
        DataError: E360 no rows, E361 rows of a kind that cannot be evaluated.
        ConfigError: E210, E211, a metric or target that does not exist.
    """
    what = situation(given)
    metrics = chosen_metrics(what, given.metrics, given.targets)
    asked, limits = ask_all(given, what, metrics[0])
    _write(given, asked)
    table = _Table(given, what, metrics, asked)
    targets = judge_targets(given.targets, table.values(), table.gains())
    verdict, sentence = judge(table.evidence(targets))
    run, base = asked[0], table.base
    base_rows = base.predictions if base else None
    slice_rows, slice_limits = slices.slice_rows(
        metrics[0],
        run.predictions,
        base_rows,
        given.slices,
        samples=given.bootstrap_samples,
        seed=given.seed,
        confidence=given.confidence,
    )
    forgotten, forgetting_note = _forgetting(given, base)
    exposed, exposure_note = exposure.probe(given)
    labelled = what in ("single_label", "multi_label")
    warnings = [*_unfinished(given, asked), *_not_reloaded(given)]
    return Report(
        metier_version=_version(),
        created=given.created or now(),
        run=given.run,
        name=given.name,
        description=given.description,
        task=given.task,
        split=given.split,
        confidence=given.confidence,
        verdict=verdict,
        sentence=sentence,
        primary_metric=metrics[0].name,
        targets=targets,
        systems=table.systems(),
        differences=table.differences(),
        classes=detail.class_rows(run.predictions, base_rows) if labelled else [],
        confusion=detail.confusion(run.predictions) if labelled else None,
        calibration=detail.calibration(run.predictions, base_rows) if labelled else None,
        slices=slice_rows,
        forgetting=forgotten,
        forgetting_note=forgetting_note,
        exposure=exposed,
        exposure_note=exposure_note,
        examples=examples.pick(metrics, run.predictions, base_rows, seed=given.seed),
        data=_data(given, table),
        training=given.training,
        parity=dict(given.parity),
        reproduce=dict(given.reproduce),
        base_model=dict(given.base_model),
        limits=[*warnings, *limits, *_unseen(table), *slice_limits, *_limits(given, run, what)],
        warnings=warnings,
    )


# ───────────────────────────────────────────────────────────────────────────── figures and differences


class _Table:
    """Every metric of every system on the same rows; the first system is the run, the first metric decides."""

    def __init__(
        self, given: EvaluationInput, situation: str, metrics: Sequence[Metric], asked: Sequence[Asked]
    ) -> None:
        self.given = given
        self.situation = situation
        self.metrics = list(metrics)
        self.asked = asked
        self._measured = {system.name: {m.name: measure(m, system.predictions) for m in metrics} for system in asked}
        self._resampler = _resampler(given, len(given.test))
        self._found: dict[tuple[str, str], Difference | None] = {}
        for floor in self.floors():
            self._add_shared(floor)

    @property
    def base(self) -> Asked | None:
        """The untouched base in its strongest form."""
        return next((system for system in self.asked if system.role == "base"), None)

    def figure(self, system: Asked, metric: Metric) -> Figure:
        """Return one figure with its interval."""
        measured = self._measured[system.name][metric.name]
        return figure(measured, self._resampler, note=system.note or _part(measured.n, len(system.predictions)))

    def systems(self) -> list[System]:
        """Return the systems with the figures they have; the deciding one is always there for the run."""
        return [
            System(
                name=system.name,
                label=system.label,
                role=system.role,
                figures=[
                    f
                    for m in self.metrics
                    if (f := self.figure(system, m)).value is not None
                    or (system.role == "run" and m.name in (self.metrics[0].name, *self.given.targets))
                ],
                seconds=round(system.seconds, 3),
            )
            for system in self.asked
        ]

    def difference(self, other: Asked, metric: Metric) -> Difference | None:
        """Return run minus another system, computed once."""
        key = (other.name, metric.name)
        if key not in self._found:
            ours, theirs = self._measured[self.asked[0].name][metric.name], self._measured[other.name][metric.name]
            self._found[key] = difference(ours, theirs, other.name, self._resampler)
        return self._found[key]

    def differences(self) -> list[Difference]:
        """Return run minus base and floors on all metrics, and minus the base's other forms on the deciding one."""
        found = []
        for other in self.asked[1:]:
            every = other.role in ("base", "floor") or other.name == "run_text"
            found += [self.difference(other, m) for m in (self.metrics if every else self.metrics[:1])]
        return [d for d in found if d is not None]

    def compared(self, other: Asked, metrics: Sequence[Metric]) -> Compared | None:
        """Return run minus another system on the first of these metrics that both have."""
        for metric in metrics:
            found = self.difference(other, metric)
            if found is not None:
                return Compared(other, found, metric.unit, metric.higher_is_better)
        return None

    def values(self) -> dict[str, float | None]:
        """Return the run's figures by metric."""
        return {m.name: self.figure(self.asked[0], m).value for m in self.metrics}

    def gains(self) -> dict[str, float | None]:
        """Return how much better the run is than the base and than the strongest floor, by target name."""
        found: dict[str, float | None] = {}
        for metric in self.metrics:
            base = self.compared(self.base, [metric]) if self.base else None
            found[f"gain_over_base.{metric.name}"] = base.gain if base else None
            floors = [c.gain for f in self.floors() if (c := self.compared(f, [metric]))]
            found[f"gain_over_floor.{metric.name}"] = min(floors, default=None)
        return found

    def evidence(self, targets: Sequence[TargetResult]) -> Evidence:
        """Return what the rules of the verdict look at."""
        floors = {f.phrase: self.compared(f, self.metrics) for f in self.floors()}
        return Evidence(
            primary=self.figure(self.asked[0], self.metrics[0]),
            base_measured=self.base is not None,
            over_base=self.compared(self.base, self.metrics[:1]) if self.base else None,
            floors=[compared for compared in floors.values() if compared],
            unseen_floors=[phrase for phrase, compared in floors.items() if not compared],
            targets=targets,
            confidence=self.given.confidence,
            situation=self.situation,
            split=self.given.split,
        )

    def floors(self) -> list[Asked]:
        """Return the methods that need no language model."""
        return [system for system in self.asked if system.role == "floor"]

    def _add_shared(self, floor: Asked) -> None:
        """Measure one metric more where the floor has none of those asked for: no run passes a floor unseen."""
        if self.compared(floor, self.metrics):
            return
        for metric in metrics_for(self.situation):
            ours, theirs = measure(metric, self.asked[0].predictions), measure(metric, floor.predictions)
            if difference(ours, theirs, floor.name, self._resampler):
                for system in self.asked:
                    self._measured[system.name][metric.name] = measure(metric, system.predictions)
                self.metrics.append(metric)
                return


def _part(n: int, rows: int) -> str:
    """Say so where a figure is of a part of the measured rows; empty where it is of all, or of none."""
    return f"on {n:,} of {rows:,} rows" if 0 < n < rows else ""


def _resampler(given: EvaluationInput, n: int) -> Resampler:
    return Resampler(n, samples=given.bootstrap_samples, seed=given.seed, confidence=given.confidence)


# ───────────────────────────────────────────────────────────────────────────── the rest of the report


def _forgetting(given: EvaluationInput, base: Asked | None) -> tuple[list[Difference], str]:
    if base is None:
        return [], "Not measured: the untouched base was not measured."
    return forgetting.probe(given)


def _data(given: EvaluationInput, table: _Table) -> DataSummary:
    """Add the figures of the run, its base and the floors on the rows that have no twin in train or validation."""
    run = table.asked[0]
    kept = [k for k, p in enumerate(run.predictions) if p.id not in given.leaking_ids]
    if len(kept) == len(run.predictions) or not kept:
        return given.data
    resampler = _resampler(given, len(kept))

    def without_twins(system: Asked) -> list[Figure]:
        rows = [system.predictions[k] for k in kept]
        measured = [measure(m, rows) for m in table.metrics]
        found = [figure(m, resampler, note=system.note or _part(m.n, len(rows))) for m in measured]
        return [f for f in found if f.value is not None]

    others = {s.name: without_twins(s) for s in table.asked if s.role in ("base", "floor")}
    return given.data.model_copy(update={"leak_free_figures": without_twins(run), "leak_free_others": others})


def _unfinished(given: EvaluationInput, asked: Sequence[Asked]) -> list[str]:
    """Say so where most of the run's answers ran into the length limit, whatever metrics were asked for (pitfall 2)."""
    written = [p for system in asked if system.role == "run" for p in system.predictions if p.finish]
    cut = [p for p in written if p.finish == "length"]
    if 2 * len(cut) <= len(written):
        return []
    return [
        f"{number(len(cut) / len(written), 'share')} of {len(written):,} written answers did not end by themselves: "
        f"either the run did not learn its end-of-turn token, or evaluation.max_new_tokens={given.max_new_tokens}, "
        "where they were cut, is too small."
    ]


def _not_reloaded(given: EvaluationInput) -> list[str]:
    """Say so where the checkpoint on disk does not give the loss that training wrote down for it (pitfall 9)."""
    reload = given.parity.get("reload", {})
    if reload.get("passed", True):
        return []
    return [
        f"The checkpoint {reload['checkpoint']}, loaded from disk, has a validation loss of "
        f"{reload['reloaded_loss']:.4g} where training saw {reload['recorded_loss']:.4g}; at most "
        f"{reload['tolerance']:.2g} apart is allowed. Every figure here is of the model on disk, which is not the one "
        "that was trained: do not use it before this is understood."
    ]


def _limits(given: EvaluationInput, run: Asked, what: str) -> list[str]:
    found = [
        "The intervals cover the choice of the measured rows, not the luck of one training seed.",
    ]
    if given.split == "validation":
        found.append(
            "These are the validation rows: the checkpoint and the settings of the baselines were chosen on them, so "
            "the figures are better than new rows would give."
        )
    leaks = sum(p.id in given.leaking_ids for p in run.predictions)
    if leaks:
        beside = "figures without them stand beside" if leaks < len(run.predictions) else "no row is left without one"
        found.append(f"{_rows(leaks)} an exact or near twin in train or validation; {beside}.")
    unread = sum(p.nll is None for p in run.predictions) if "likelihood" in ANSWERS[what] else 0
    if unread:
        others = len(run.predictions) - unread
        found.append(
            f"{_rows(unread)} no likelihood, since training.max_length or a weight of 0 leaves no token of a reply to "
            f"measure: perplexity and bits per byte are of the other {others:,}."
        )
    cut = sum(p.cut_tokens > 0 for p in run.predictions)
    if cut:
        found.append(f"{_rows(cut)} more tokens than the model reads at once and lost their end or beginning.")
    return found


def _unseen(table: _Table) -> list[str]:
    """Say which floors share no figure with the run."""
    found = [floor.phrase for floor in table.floors() if table.compared(floor, table.metrics) is None]
    return [f"No figure could be had of both the run and {phrase}: it may be better than the run." for phrase in found]


def _rows(n: int) -> str:
    return f"{n:,} measured {'row has' if n == 1 else 'rows have'}"


def _write(given: EvaluationInput, asked: Sequence[Asked]) -> None:
    if given.predictions_dir is not None:
        for system in asked:
            write_predictions(given.predictions_dir / f"{given.split}-{system.name}.jsonl", system.predictions)


def _version() -> str:
    from importlib.metadata import version

    return version("metier")
