"""Continued pre-training: next-token cross-entropy on raw text, every token supervised.

Documents are cut into blocks of `training.max_length` tokens that overlap by one, so that each token is predicted
exactly once; `training.batch_size` counts blocks. Left out: document re-ordering and curriculum.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from metier.core import catalog
from metier.core.types import Example
from metier.training.method import Facts, Term

if TYPE_CHECKING:
    from metier.core.batch import Batch
    from metier.data.template import Encoded, Encoder
    from metier.models.policy import Policy

summary = "continued pre-training: learn from raw text"
consumes = ("text",)
weight_key = "tokens"


class Options(catalog.Options):
    """Keys of `method: {kind: cpt}`: none."""


def head(options: Options, facts: Facts) -> None:
    """Return None: the base model's own output layer predicts the tokens."""
    return None


def encode(examples: Iterable[Example], encoder: Encoder, options: Options, facts: Facts) -> Iterator[Encoded]:
    """Yield the blocks of each document."""
    return encoder.encode(examples)


def loss(policy: Policy, batch: Batch, options: Options, facts: Facts) -> Sequence[Term]:
    """Return the summed cross-entropy of all tokens but the first of each block."""
    from metier.training.tokens import cross_entropy

    return [Term("cross_entropy", cross_entropy(policy, batch), "tokens")]


def measure(policy: Policy, batch: Batch, options: Options, facts: Facts) -> dict[str, float]:
    """Return the summed cross-entropy and the number of tokens that greedy decoding would get right."""
    from metier.training.tokens import measure_tokens

    return measure_tokens(policy, batch)
