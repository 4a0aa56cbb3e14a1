"""The tables behind the headline: per class, confusions, calibration."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from metier.evaluation.result import Calibration, ClassRow, Confusion
from metier.metrics import Prediction, metric
from metier.metrics.ece import decisions
from metier.metrics.f1 import class_names, statistics

SHOWN_CLASSES = 20
"""A larger confusion matrix is cut to the classes that are confused most."""
TOP_PAIRS = 20
NO_LABEL = "(no label)"


def class_rows(run: Sequence[Prediction], base: Sequence[Prediction] | None) -> list[ClassRow]:
    """Return precision, recall and F1 of each class that occurs, the weakest F1 first."""
    base_f1 = {name: f1 for name, _, _, _, f1 in _per_class(base)} if base is not None else {}
    rows = [
        ClassRow(label=name, n=n, precision=precision, recall=recall, f1=f1, base_f1=base_f1.get(name))
        for name, n, precision, recall, f1 in _per_class(run)
    ]
    return sorted(rows, key=lambda row: (row.f1, -row.n, row.label))


def _per_class(predictions: Sequence[Prediction]) -> list[tuple[str, int, float, float, float]]:
    counts = statistics(predictions, metric("f1").options).sum(axis=0).reshape(3, -1)
    found = []
    for name, tp, fp, fn in zip(class_names(predictions), *counts, strict=False):
        if tp + fp + fn > 0:
            precision, recall = tp / max(tp + fp, 1), tp / max(tp + fn, 1)
            found.append((name, int(tp + fn), float(precision), float(recall), float(2 * tp / (2 * tp + fp + fn))))
    return found


def confusion(predictions: Sequence[Prediction]) -> Confusion | None:
    """Return the confusion matrix of single labels; None for several labels per row or numbers."""
    pairs = [
        (p.reference, p.output or NO_LABEL)
        for p in predictions
        if isinstance(p.reference, str) and isinstance(p.output, str)
    ]
    if not pairs:
        return None
    counted = Counter(pairs)
    mistakes = Counter({pair: n for pair, n in counted.items() if pair[0] != pair[1]})
    top = sorted(mistakes.items(), key=lambda item: (-item[1], item[0]))
    occur = Counter(name for pair in counted for name in pair)
    order = [name for name in class_names(predictions) if name in occur]
    order += [NO_LABEL] if NO_LABEL in occur else []
    num_labels = len(order)
    if num_labels > SHOWN_CLASSES:
        involved: Counter[str] = Counter()
        for (truth, said), n in mistakes.items():
            involved[truth] += n
            involved[said] += n
        chosen = sorted(order, key=lambda name: (-involved[name], name))[:SHOWN_CLASSES]
        order = [name for name in order if name in chosen]
    return Confusion(
        labels=order,
        num_labels=num_labels,
        counts=[[counted[truth, said] for said in order] for truth in order],
        top_pairs=[(truth, said, n) for (truth, said), n in top[:TOP_PAIRS]],
    )


def calibration(run: Sequence[Prediction], base: Sequence[Prediction] | None) -> Calibration | None:
    """Return reliability bins of equal width, ECE and Brier score; None without probabilities."""
    ece = metric("ece")
    value = ece.value(run)
    if value is None:
        return None
    made = np.array([d for p in run for d in decisions(p)])
    edges = np.linspace(0.0, 1.0, ece.options.bins + 1)
    place = np.minimum((made[:, 0] * ece.options.bins).astype(int), ece.options.bins - 1)
    bins = [
        {
            "low": float(edges[k]),
            "high": float(edges[k + 1]),
            "confidence": float(made[place == k, 0].mean()),
            "accuracy": float(made[place == k, 1].mean()),
            "n": float((place == k).sum()),
        }
        for k in np.unique(place)
    ]
    return Calibration(
        ece=value, brier=metric("brier").value(run), bins=bins, base_ece=ece.value(base) if base is not None else None
    )
