"""Compare two runs by what they said about the same rows.

Rows are matched by id alone, so that runs of different bases and settings can be compared. Then a likelihood need not
be of the same thing: perplexity is per token, and tokens are those of a tokenizer; a row that one run cut at its
`training.max_length` is less text than the same row whole. What cannot be compared is left out and named.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from metier.core.errors import DataError
from metier.evaluation.compare import Resampler, difference, measure
from metier.evaluation.result import Difference
from metier.evaluation.systems import Asked
from metier.evaluation.verdict import MIN_ROWS, Compared, gap
from metier.metrics import Metric, Prediction

FIRST_TOKEN_BYTES = 16
"""A text's first token is predicted by nothing where the tokenizer begins no text with one of its own: so many bytes of
a raw text may be missing from one of two measurements of it."""


@dataclass(frozen=True)
class Comparison:
    """One run minus another on the rows that both answered."""

    rows: list[Difference]
    sentence: str
    num_rows: int
    only_first: int
    """Rows that only the first run answered."""
    only_second: int
    splits: tuple[str, str] = ("test", "test")
    """Which rows of its dataset each run was measured on."""
    notes: tuple[str, ...] = ()
    """What was left out, and what to know about the sentence."""


def versus(
    first: Sequence[Prediction],
    second: Sequence[Prediction],
    metrics: Sequence[Metric],
    *,
    names: tuple[str, str],
    splits: tuple[str, str] = ("test", "test"),
    samples: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Comparison:
    """Compare two runs, the first metric deciding.

    Args:
        first, second: predictions of both runs, in any order; rows are matched by id (a digest of their content).
        metrics: what is compared.
        names: how a sentence calls the runs, such as `("run 12", "run 9")`.
        splits: the split that each of them was measured on.

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
    ours, theirs, apart = _same_text([a for a, _ in pairs], [b for _, b in pairs])
    notes = [*_splits_note(names, splits)]
    if apart and any("likelihood" in m.module.answers for m in metrics):
        notes.append(
            f"{apart:,} of {len(pairs):,} common rows are left out of the likelihoods: the runs measured different "
            "parts of them (another training.max_length, training.truncation, chat template or trained part)."
        )
    if any(
        a.nll is not None and b.nll is not None and a.num_tokens != b.num_tokens
        for a, b in zip(ours, theirs, strict=True)
    ):
        if any(m.name.partition(":")[0] == "perplexity" for m in metrics):
            notes.append(
                "Perplexity is left out: it is per token, and the runs divide the same text into other tokens."
            )
        metrics = [m for m in metrics if m.name.partition(":")[0] != "perplexity"]
    resampler = Resampler(len(pairs), samples=samples, seed=seed, confidence=confidence)
    found = [(m, difference(measure(m, ours), measure(m, theirs), names[1], resampler)) for m in metrics]
    rows = [d for _, d in found if d is not None]
    decided = next(((m, d) for m, d in found if d is not None), None)
    return Comparison(
        rows=rows,
        sentence=_sentence(decided, names, splits, confidence),
        num_rows=len(pairs),
        only_first=len(first) - len(pairs),
        only_second=len(second) - len(pairs),
        splits=splits,
        notes=tuple(notes),
    )


def _same_text(
    ours: Sequence[Prediction], theirs: Sequence[Prediction]
) -> tuple[list[Prediction], list[Prediction], int]:
    """Take the likelihood from both answers where they are of different text; return them and how often that was."""
    apart = [
        a.nll is not None and b.nll is not None and abs(a.num_bytes - b.num_bytes) > _allowed(a)
        for a, b in zip(ours, theirs, strict=True)
    ]
    return _without_likelihood(ours, apart), _without_likelihood(theirs, apart), sum(apart)


def _allowed(row: Prediction) -> int:
    is_text = row.prompt == row.reference  # a raw text has no prompt of its own (records.prompt_text)
    return FIRST_TOKEN_BYTES if is_text else 0


def _without_likelihood(rows: Sequence[Prediction], where: Sequence[bool]) -> list[Prediction]:
    return [replace(p, nll=None) if out else p for p, out in zip(rows, where, strict=True)]


def _splits_note(names: tuple[str, str], splits: tuple[str, str]) -> list[str]:
    """Say whose checkpoint was chosen on the rows that it is compared on."""
    chosen_on = [name for name, split in zip(names, splits, strict=True) if split == "validation"]
    if not chosen_on:
        return []
    if len(chosen_on) == 2:
        return ["Both were measured on validation rows, on which their checkpoints were chosen."]
    other = next(name for name in names if name not in chosen_on)
    return [
        f"{chosen_on[0]} was measured on its validation rows, on which its checkpoint was chosen, and {other} on test "
        f"rows: that favours {chosen_on[0]}."
    ]


def _keys(predictions: Sequence[Prediction]) -> list[tuple[str, int]]:
    """Return (id, occurrence) per row: rows with equal content share an id."""
    seen: Counter[str] = Counter()
    keys = []
    for p in predictions:
        keys.append((p.id, seen[p.id]))
        seen[p.id] += 1
    return keys


def _sentence(
    decided: tuple[Metric, Difference] | None, names: tuple[str, str], splits: tuple[str, str], confidence: float
) -> str:
    if decided is None:
        return f"{names[0]} and {names[1]} have no figure in common."
    metric, d = decided
    other = Asked(names[1], names[1], "base", [])
    distance = gap(Compared(other, d, metric.unit, metric.higher_is_better))
    where = f"in {metric.label} on {d.n:,} common rows{_which_rows(names, splits)}"
    if d.n < MIN_ROWS:
        return f"Not enough evidence: {d.n:,} common rows are fewer than the {MIN_ROWS} that a verdict needs."
    if d.outcome == "same":
        return f"No clear difference {where} ({100 * confidence:g} % interval of the difference contains 0)."
    word = "better" if d.outcome == "better" else "worse"
    return f"{names[0]} is {word} than {names[1]}: {distance} it {where} ({100 * confidence:g} % interval excludes 0)."


def _which_rows(names: tuple[str, str], splits: tuple[str, str]) -> str:
    """Name the splits, unless both are test."""
    if splits == ("test", "test"):
        return ""
    if splits[0] == splits[1]:
        return f" of {splits[0]}"
    return f" ({splits[0]} of {names[0]}, {splits[1]} of {names[1]})"
