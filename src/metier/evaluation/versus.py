"""Compare two runs by what they said about the same rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from metier.core.errors import DataError
from metier.evaluation.compare import Resampler, difference, measure
from metier.evaluation.result import Difference
from metier.evaluation.systems import Asked
from metier.evaluation.verdict import MIN_ROWS, Compared, gap
from metier.metrics import Metric, Prediction


@dataclass(frozen=True)
class Comparison:
    """One run minus another on the rows that both answered."""

    rows: list[Difference]
    sentence: str
    num_rows: int
    only_first: int
    """Rows that only the first run answered."""
    only_second: int


def versus(
    first: Sequence[Prediction],
    second: Sequence[Prediction],
    metrics: Sequence[Metric],
    *,
    names: tuple[str, str],
    samples: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Comparison:
    """Compare two runs, the first metric deciding.

    Args:
        first, second: predictions of both runs, in any order; rows are matched by id (a digest of their content).
        metrics: what is compared.
        names: how a sentence calls the runs, such as `("run 12", "run 9")`.

    Raises:
        DataError: E362, the runs have no row in common.
    """
    known = dict(zip(_keys(second), second, strict=True))
    pairs = [(p, known[key]) for key, p in zip(_keys(first), first, strict=True) if key in known]
    if not pairs:
        raise DataError(
            362,
            "The two runs have no measured row in common, so they cannot be compared",
            received=f"{len(first):,} and {len(second):,} rows",
            fix="evaluate both on the same dataset version: metier evaluate",
        )
    ours, theirs = [a for a, _ in pairs], [b for _, b in pairs]
    resampler = Resampler(len(pairs), samples=samples, seed=seed, confidence=confidence)
    found = [(m, difference(measure(m, ours), measure(m, theirs), names[1], resampler)) for m in metrics]
    rows = [d for _, d in found if d is not None]
    decided = next(((m, d) for m, d in found if d is not None), None)
    return Comparison(
        rows=rows,
        sentence=_sentence(decided, names, confidence),
        num_rows=len(pairs),
        only_first=len(first) - len(pairs),
        only_second=len(second) - len(pairs),
    )


def _keys(predictions: Sequence[Prediction]) -> list[tuple[str, int]]:
    """Return (id, occurrence) per row: rows with equal content share an id."""
    seen: Counter[str] = Counter()
    keys = []
    for p in predictions:
        keys.append((p.id, seen[p.id]))
        seen[p.id] += 1
    return keys


def _sentence(decided: tuple[Metric, Difference] | None, names: tuple[str, str], confidence: float) -> str:
    if decided is None:
        return f"{names[0]} and {names[1]} have no figure in common."
    metric, d = decided
    other = Asked(names[1], names[1], "base", [])
    distance = gap(Compared(other, d, metric.unit, metric.higher_is_better))
    where = f"in {metric.label} on {d.n:,} common rows"
    if d.n < MIN_ROWS:
        return f"Not enough evidence: {d.n:,} common rows are fewer than the {MIN_ROWS} that a verdict needs."
    if d.outcome == "same":
        return f"No clear difference {where} ({100 * confidence:g} % interval of the difference contains 0)."
    word = "better" if d.outcome == "better" else "worse"
    return f"{names[0]} is {word} than {names[1]}: {distance} it {where} ({100 * confidence:g} % interval excludes 0)."
