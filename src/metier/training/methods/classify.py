"""Repurposing: a task head on the base model's hidden states, for one label, several labels or a number.

The method owns the head (pooling, extra layers, dropout); `adapter.kind` says which base weights train with it:
`none` (frozen), `layers`, `lora`, `full`. Cross-entropy for one label, binary cross-entropy for several, squared
error on standardised targets for regression. Left out: class weighting (the `balance` step does it in the data) and
hierarchical labels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from metier.core import catalog
from metier.core.errors import ConfigError
from metier.core.types import Example
from metier.training.method import Facts, Term

if TYPE_CHECKING:
    import torch

    from metier.core.batch import Batch
    from metier.data.template import Encoded, Encoder
    from metier.models.heads import HeadSpec
    from metier.models.policy import Policy

summary = "repurposing: a task head for labels or numbers"
consumes = ("labelled",)
weight_key = "examples"


class Options(catalog.Options):
    """Keys of `method: {kind: classify}`."""

    problem_type: Literal["auto", "single_label", "multi_label", "regression"] = Field(
        "auto", description="`auto`: from the labels, as the dataset's manifest says."
    )
    pooling: Literal["auto", "last", "mean", "cls"] = Field(
        "auto",
        description="Which hidden state the head reads; `auto`: last token for causal models, mean for encoders.",
    )
    hidden_layers: int = Field(0, ge=0, le=4, description="Extra fully connected layers before the output.")
    head_dropout: float = Field(0.0, ge=0, lt=1, description="Dropout before the output layer.")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="Share of the target spread over all classes.")
    calibrate: bool = Field(
        True,
        description="After training, fit on validation (from 50 rows on) how sure answers are; none of them changes.",
    )
    head_learning_rate_multiplier: float = Field(
        10.0, gt=0, description="Learning rate of the head relative to the base's; the head starts from nothing."
    )


def head(options: Options, facts: Facts) -> HeadSpec:
    """Return the head: one output per label, or a single one for regression.

    Raises:
        ConfigError: E268, a dataset version that was prepared for another problem type; E269, an option without use.
    """
    from metier.models.heads import HeadSpec

    inferred = facts.problem_type or "single_label"
    problem_type = inferred if options.problem_type == "auto" else options.problem_type
    if facts.problem_type is not None and problem_type != facts.problem_type:
        raise ConfigError(
            268,
            "The rows' labels are of another kind than method.problem_type",
            received=facts.problem_type,
            expected=problem_type,
            fix="prepare them again from data.sources, or method.problem_type=auto",
        )
    if options.label_smoothing and problem_type != "single_label":
        raise ConfigError(
            269,
            "`method.label_smoothing` has no use where a row has several labels or a number",
            received=problem_type,
            fix="method.label_smoothing=0",
        )
    return HeadSpec(
        num_outputs=1 if problem_type == "regression" else len(facts.labels),
        pooling=options.pooling,
        hidden_layers=options.hidden_layers,
        dropout=options.head_dropout,
        labels=facts.labels,
        problem_type=problem_type,
        target_mean=facts.target_mean,
        target_scale=facts.target_scale,
    )


def encode(examples: Iterable[Example], encoder: Encoder, options: Options, facts: Facts) -> Iterator[Encoded]:
    """Yield each text's tokens with its target; nothing is supervised at the token level."""
    return encoder.encode(examples, head=True)


def loss(policy: Policy, batch: Batch, options: Options, facts: Facts) -> Sequence[Term]:
    """Return the summed loss of the head's outputs."""
    from metier.training import losses

    outputs, targets, problem_type = _outputs(policy, batch)
    if problem_type == "regression":
        return [Term("squared_error", losses.squared_error(outputs, targets), "examples")]
    if problem_type == "multi_label":
        return [Term("binary_cross_entropy", losses.multi_label(outputs, targets), "examples")]
    total = losses.single_label(outputs, targets, label_smoothing=options.label_smoothing)
    return [Term("cross_entropy", total, "examples")]


def measure(policy: Policy, batch: Batch, options: Options, facts: Facts) -> dict[str, float]:
    """Return sums of loss and accuracy (several labels: share of labels right; regression: absolute error)."""
    import torch

    from metier.training import losses

    with torch.no_grad():
        outputs, targets, problem_type = _outputs(policy, batch)
        if problem_type == "regression":
            error = (outputs.squeeze(1) - targets).abs().sum() * facts.target_scale
            return {"loss": float(losses.squared_error(outputs, targets)), "absolute_error": float(error)}
        if problem_type == "multi_label":
            right = ((outputs > 0) == (targets > 0.5)).float().mean(1).sum()
            return {"loss": float(losses.multi_label(outputs, targets)), "accuracy": float(right)}
        right = (outputs.argmax(1) == targets).sum()
        return {"loss": float(losses.single_label(outputs, targets)), "accuracy": float(right)}


def _outputs(policy: Policy, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, str]:
    import torch

    assert policy.head is not None and batch.targets is not None
    targets = torch.from_numpy(batch.targets).to(policy.device)
    return policy.head_logits(batch), targets, policy.head.spec.problem_type
