"""How well a model knows planted secrets: the exposure of canaries (Carlini et al. 2019, arXiv:1802.08232).

    exposure = log2 |R| - log2 rank

rank is the place of the canary's own digits among R, ordered by likelihood. R is the canary itself and ALTERNATIVES
random ones, not all 10⁹: at the most 8 bits can be seen, and a model that knows nothing has 1.44 bits on average (its
rank is any, with equal chance). Left out: the paper's extrapolation beyond the sample by a skew-normal fit.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Sequence

from metier.core.types import Example
from metier.data.canaries import MARK, NUM_DIGITS, with_digits
from metier.evaluation.inputs import EvaluationInput
from metier.evaluation.predict import predict_text
from metier.evaluation.result import Exposure

ALTERNATIVES = 255
BY_CHANCE = 1 / math.log(2)


def probe(given: EvaluationInput) -> tuple[list[Exposure], str]:
    """Return a row per number of repeats, and a sentence; nothing where no canaries were planted."""
    if not given.canaries:
        return [], ""
    if given.policy.base.kind != "causal" or given.policy.head is not None:
        return [], "Canaries were planted and not measured: this model labels texts, it does not write them."
    bits: defaultdict[int, list[float]] = defaultdict(list)
    for canary in given.canaries:
        rank = _rank(given, canary)
        bits[int(canary.meta[MARK]["repeats"])].append(math.log2(ALTERNATIVES + 1) - math.log2(rank))
    most = math.log2(ALTERNATIVES + 1)
    found = [
        Exposure(repeats=n, canaries=len(b), mean=sum(b) / len(b), largest=max(b), known=sum(v == most for v in b))
        for n, b in sorted(bits.items())
    ]
    known = sum(row.known for row in found)
    note = (
        f"{known} of {len(given.canaries)} planted secrets are likelier to the model than any of {ALTERNATIVES} others"
    )
    return found, f"{note}; one that was never seen has {BY_CHANCE:.2f} bits on average, {most:.0f} are the most."


def _rank(given: EvaluationInput, canary: Example) -> int:
    """Return the place of a canary among its alternatives, 1 for the likeliest; a tie counts for the alternative."""
    rng = random.Random(f"{given.seed}:{canary.id}")
    own = str(canary.meta[MARK]["digits"])
    others: set[str] = set()
    while len(others) < ALTERNATIVES:
        others.add("".join(rng.choices("0123456789", k=NUM_DIGITS)))
        others.discard(own)
    rows: Sequence[Example] = [canary, *(with_digits(canary, digits) for digits in sorted(others))]
    nats = [row.nll for row in predict_text(given.policy, rows, progress=given.progress)]  # type: ignore[arg-type]
    if nats[0] is None:
        return len(nats)
    return 1 + sum(other is not None and other <= nats[0] for other in nats[1:])
