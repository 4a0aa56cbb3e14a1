"""The forgetting probe: bits per byte of general text, the run against its untouched base.

A specialist that has forgotten its language shows here first: the same text costs it more bits than it cost the base.
"""

from __future__ import annotations

from collections.abc import Sequence

from metier.core.types import Text
from metier.evaluation.compare import Resampler, difference, measure
from metier.evaluation.inputs import EvaluationInput, untouched_base
from metier.evaluation.predict import predict_text
from metier.evaluation.result import Difference
from metier.metrics import metric


def probe(given: EvaluationInput) -> tuple[list[Difference], str]:
    """Return the differences and a sentence; no difference where the run does not write."""
    if given.policy.base.kind != "causal" or given.policy.head is not None:
        return [], "Not measured: this model labels texts, it does not write them."
    if not given.general_texts:
        return [], "Not measured: no general text was given."
    texts = [Text(text=text, id=f"general-{k}") for k, text in enumerate(given.general_texts)]
    bits = metric("bits_per_byte")
    ours = measure(bits, predict_text(given.policy, texts, progress=given.progress))
    with untouched_base(given) as base:
        theirs = measure(bits, predict_text(base, texts, progress=given.progress))
    resampler = Resampler(len(texts), samples=given.bootstrap_samples, seed=given.seed, confidence=given.confidence)
    found = difference(ours, theirs, "base", resampler)
    if found is None:
        return [], "Not measured: the general text holds nothing to predict."
    return [found], _sentence(found, theirs.value, texts)


def _sentence(found: Difference, base: float, texts: Sequence[Text]) -> str:
    change = found.delta / base if base else 0.0
    on = f"on {len(texts)} general texts ({base:.2f} bits per byte before)"
    if found.outcome == "same":
        return f"No clear change {on}."
    word = "more" if found.delta > 0 else "fewer"
    return f"The run needs {abs(change):.1%} {word} bits per byte than its base {on}."
