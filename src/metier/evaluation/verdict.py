"""The rules that say whether a run was worth it, and the sentence that says so to someone who knows the trade.

In this order:

1. `insufficient`: fewer than 100 rows, no base to compare with, or no figure.
2. `worse` / `no_gain`: the paired interval of run minus untouched base lies on the wrong side of 0, or contains it.
3. `below_floor`: better than the base, but a method without a language model does better still. A floor that lacks the
   deciding metric (it has no likelihoods) is compared on the first metric that both have; suite.py measures one more
   where those asked for hold none.
4. `target_missed`: better, not below the floor, but a target of the objective was missed or could not be measured.
5. `insufficient` once more: a floor that shares no figure with the run. Nothing is worth it past a floor unseen.
6. `worth_it`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from metier.core.page import apart
from metier.evaluation.result import Difference, Figure, TargetResult, Verdict
from metier.evaluation.systems import Asked

MIN_ROWS = 100
"""Below this a figure is shown and nothing is claimed."""
NOUNS = {
    "chat": "conversations",
    "single_label": "texts",
    "multi_label": "texts",
    "regression": "texts",
    "continue": "texts",
}
_COMPARE: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}


@dataclass(frozen=True)
class Compared:
    """Run minus one other system on one metric."""

    asked: Asked
    difference: Difference
    unit: str
    higher_is_better: bool

    @property
    def gain(self) -> float:
        """The difference, turned so that positive is better."""
        return self.difference.delta if self.higher_is_better else -self.difference.delta


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What the rules look at."""

    primary: Figure
    """The run's figure of the metric that decides."""
    base_measured: bool
    over_base: Compared | None
    """Run minus base on that metric."""
    floors: Sequence[Compared]
    """Run minus each floor, on the metric that decides or the first one that both have."""
    targets: Sequence[TargetResult]
    unseen_floors: Sequence[str] = ()
    """How a sentence speaks of the floors that share no figure with the run."""
    confidence: float
    situation: str
    split: str = "test"


def judge(evidence: Evidence) -> tuple[Verdict, str]:
    """Return the verdict and its sentence."""
    lack = _lack(evidence)
    over = evidence.over_base
    if lack or over is None:
        return "insufficient", f"Not enough evidence: {lack}."
    if over.difference.outcome == "worse":
        return "worse", f"Not worth it: {_found(evidence)}, {_against_base(evidence, over)}."
    if over.difference.outcome == "same":
        beside = _floor_clause(evidence, unit=True)
        return "no_gain", f"No clear gain: {_found(evidence)}, {_against_base(evidence, over)}{beside}."
    below = [floor for floor in evidence.floors if floor.gain < 0]
    if below:
        worst = min(below, key=lambda floor: floor.gain)
        other = f"in {_name(worst.difference.label)} " if worst.difference.metric != evidence.primary.metric else ""
        against = f"{other}{gap(worst)} {worst.asked.phrase}, which needs no language model"
        return "below_floor", f"Not worth it: {_found(evidence)}, {_against_base(evidence, over)}, but {against}."
    missed = [t for t in evidence.targets if not t.met]
    if missed:
        return (
            "target_missed",
            f"Better than the base, but short of its target: {_found(evidence)}, {_against_base(evidence, over)}; "
            f"{'; '.join(_missed(t) for t in missed)}.",
        )
    if evidence.unseen_floors:
        against = f"but no figure could be had of it and of {' or '.join(evidence.unseen_floors)}"
        return "insufficient", f"Not enough evidence: {_found(evidence)}, {_against_base(evidence, over)}, {against}."
    return "worth_it", f"Worth it: {_found(evidence)}, {_against_base(evidence, over)}{_floor_clause(evidence)}."


def judge_targets(
    targets: Mapping[str, str], values: Mapping[str, float | None], gains: Mapping[str, float | None]
) -> list[TargetResult]:
    """Compare each target with its figure.

    Args:
        targets: name → condition, such as `accuracy: ">= 0.92"` or `gain_over_base.accuracy: ">= 0.1"`.
        values: the run's figures by metric.
        gains: improvements by `gain_over_base.<metric>` and `gain_over_floor.<metric>`, positive = the run is better.
    """
    found = []
    for name, condition in targets.items():
        value = gains.get(name) if name.startswith("gain_over_") else values.get(name)
        note = "" if value is not None else "this figure could not be computed, so the target counts as missed"
        target = TargetResult(name=name, condition=condition, value=value, met=None, note=note)
        if value is not None and target.limit is not None:
            operation, limit = target.limit
            target = target.model_copy(update={"met": _COMPARE[operation](value, limit)})
        found.append(target)
    return found


# ───────────────────────────────────────────────────────────────────────────── the sentence


def _lack(evidence: Evidence) -> str:
    """Say what is missing for a verdict; empty when nothing is."""
    n = evidence.primary.n
    if evidence.primary.value is None:
        return f"{_name(evidence.primary.label)} could not be computed"
    if n < MIN_ROWS:
        return f"{_rows(evidence)} are fewer than the {MIN_ROWS} that a verdict needs ({_value(evidence.primary)})"
    if not evidence.base_measured:
        return f"{_found(evidence)}, but the untouched base was not measured"
    if evidence.over_base is None:
        return f"{_found(evidence)}, but the untouched base has no such figure"
    return ""


def _rows(evidence: Evidence) -> str:
    n, noun = evidence.primary.n, NOUNS.get(evidence.situation, "examples")
    kind = "training" if evidence.split == "train" else "held-out"
    return f"{n:,} {kind} {noun if n != 1 else noun[:-1]}"


def _value(figure: Figure) -> str:
    value = figure.value or 0.0
    return f"{_name(figure.label)} {value:.3f}" if figure.unit == "share" else f"{_name(figure.label)} {value:.3g}"


def _found(evidence: Evidence) -> str:
    return f"{_value(evidence.primary)} on {_rows(evidence)}"


def _name(label: str) -> str:
    """Write a label inside a sentence: `Accuracy` → `accuracy`, but `F1`, `BLEU` and `ROUGE-L` stay."""
    return label if len(label) > 1 and (label[1].isupper() or label[1].isdigit()) else label[:1].lower() + label[1:]


def _against_base(evidence: Evidence, over: Compared) -> str:
    d, phrase = over.difference, over.asked.phrase
    if d.delta == 0 and d.low == d.high:
        return f"exactly as the untouched base{f' ({phrase})' if phrase else ''}"
    level = f"{f'{phrase}; ' if phrase else ''}{100 * evidence.confidence:g} % interval"
    if d.outcome == "same":
        low, high = (_amount(x, over.unit, sign=True) for x in (d.low, d.high))
        delta = _amount(d.delta, over.unit, sign=True) + _points(over.unit)
        return f"a difference of {delta} from the untouched base that may be chance ({level} {low} to {high})"
    low, high = (_amount(x, over.unit) for x in sorted((abs(d.low), abs(d.high))))
    return f"{gap(over)} the untouched base ({level} {low}–{high})"


def _floor_clause(evidence: Evidence, *, unit: bool = False) -> str:
    """Say how the run stands to the strongest floor; empty without one."""
    if not evidence.floors:
        return ""
    floor = min(evidence.floors, key=lambda f: f.gain)
    if floor.difference.delta == 0:
        return f" and level with {floor.asked.phrase}"
    if floor.difference.metric != evidence.primary.metric:
        return f", and in {_name(floor.difference.label)} {gap(floor)} {floor.asked.phrase}"
    return f" and {gap(floor, unit=unit)} {floor.asked.phrase}"


def gap(compared: Compared, *, unit: bool = True) -> str:
    """Say `12.4 points above`, `0.31 less than`."""
    delta = compared.difference.delta
    up, down = ("above", "below") if _points(compared.unit) else ("more than", "less than")
    amount = _amount(abs(delta), compared.unit)
    if float(amount) == 0 and delta:
        amount = "less than 0.1"
    return f"{amount}{_points(compared.unit) if unit else ''} {up if delta > 0 else down}"


def _amount(value: float, unit: str, *, sign: bool = False) -> str:
    """Write a difference: shares in points with one decimal, everything else with two significant digits or more."""
    text = (
        f"{100 * abs(value):.1f}"
        if unit == "share"
        else f"{abs(value):.1f}"
        if unit == "points"
        else f"{abs(value):.3g}"
    )
    if not sign or float(text) == 0:
        return text
    return f"{'+' if value > 0 else '−'}{text}"


def _points(unit: str) -> str:
    return " points" if unit in ("share", "points") else ""


def _missed(target: TargetResult) -> str:
    name = target.name.replace("gain_over_base.", "the gain in ").replace(
        "gain_over_floor.", "the gain over the floor in "
    )
    if target.value is None or target.limit is None:
        value = "could not be computed"
    else:
        value = f"is {apart(target.value, target.limit[1])}"
    return f"{name} {value}, asked for was {target.condition.strip()}"
