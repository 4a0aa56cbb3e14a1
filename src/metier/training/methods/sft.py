"""Supervised fine-tuning: next-token cross-entropy on the demonstrated replies.

The loss is on the assistant's tokens and on the token that ends each of its turns; prompts are context only, unless
`assistant_only_loss` is off. Labelled rows become a conversation whose reply is the label. Left out: NEFTune noise,
DFT re-weighting and other variants of the loss.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from metier.core import catalog
from metier.core.types import Example
from metier.training.method import Facts, Term

if TYPE_CHECKING:
    from metier.core.batch import Batch
    from metier.data.template import Encoded, Encoder
    from metier.models.policy import Policy

summary = "supervised fine-tuning: learn the demonstrated replies"
consumes = ("conversation", "labelled")
weight_key = "tokens"


class Options(catalog.Options):
    """Keys of `method: {kind: sft}`."""

    assistant_only_loss: bool = Field(True, description="Loss on the assistant's tokens only; off = on every token.")


def head(options: Options, facts: Facts) -> None:
    """Return None: the base model's own output layer predicts the tokens."""
    return None


def encode(examples: Iterable[Example], encoder: Encoder, options: Options, facts: Facts) -> Iterator[Encoded]:
    """Yield each conversation's tokens, with 1 in the loss mask where the assistant speaks."""
    return encoder.encode(examples)


def loss(policy: Policy, batch: Batch, options: Options, facts: Facts) -> Sequence[Term]:
    """Return the summed cross-entropy of the supervised tokens."""
    from metier.training.tokens import cross_entropy

    return [Term("cross_entropy", cross_entropy(policy, batch), "tokens")]


def measure(policy: Policy, batch: Batch, options: Options, facts: Facts) -> dict[str, float]:
    """Return the summed cross-entropy and the number of supervised tokens that greedy decoding would get right."""
    from metier.training.tokens import measure_tokens

    return measure_tokens(policy, batch)
