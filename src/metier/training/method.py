"""The contract of a training method, and the loop's one law.

A method's `loss` returns named terms. Each term is a **sum** over the micro-batch, with the key of its weight and a
coefficient. `batch.weights[key]` is known before the forward pass. Only the loop divides: each term by its weight
over the whole optimiser step, across micro-batches. Accumulation and packing then give the same curve, up to
rounding.

A method is a module under training/methods with

    summary      one line
    consumes     kinds of examples it reads, such as ("conversation", "labelled")
    Options      its keys in the recipe
    encode       examples → token ids, loss masks, targets
    head         the task head it owns, or None
    loss         policy, batch → terms
    measure      policy, batch → sums for validation
    weight_key   what validation figures are divided by
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import TYPE_CHECKING, Any

from metier.core.catalog import catalog
from metier.core.errors import ConfigError
from metier.core.types import Example, ProblemType
from metier.data.prompt import check_method

if TYPE_CHECKING:
    import torch

    from metier.core.batch import Batch
    from metier.core.sections import Prompt
    from metier.data.template import Encoded, Encoder
    from metier.models.heads import HeadSpec
    from metier.models.policy import Policy


@dataclass(frozen=True, slots=True)
class Term:
    """One term of a loss: a sum over the micro-batch.

    Args:
        name: shown in events, such as `cross_entropy`.
        total: scalar tensor with a gradient; a sum, never a mean.
        weight_key: key of `batch.weights` the loop divides by.
        coefficient: weight of the term in the loss.
    """

    name: str
    total: torch.Tensor
    weight_key: str
    coefficient: float = 1.0


@dataclass(frozen=True, slots=True)
class Facts:
    """What a method may know of the dataset when it makes its head."""

    labels: tuple[str, ...] = ()
    problem_type: ProblemType | None = None
    target_mean: float = 0.0
    target_scale: float = 1.0


@dataclass(frozen=True, slots=True)
class Method:
    """A method module with its options: what the loop calls."""

    kind: str
    module: ModuleType
    options: Any
    facts: Facts = field(default_factory=Facts)

    @classmethod
    def of(cls, kind: str, values: Mapping[str, Any], facts: Facts | None = None, *, place: str = "") -> Method:
        """Return the method of that kind.

        Raises:
            ConfigError: E210 no such method, E211 an option that does not fit.
        """
        methods = catalog("methods")
        module = methods.get(kind, place=place)
        return cls(kind, module, methods.options(kind, dict(values), place=place), facts or Facts())

    @property
    def consumes(self) -> tuple[str, ...]:
        """Kinds of examples the method reads."""
        return tuple(self.module.consumes)

    @property
    def weight_key(self) -> str:
        """The weight that validation figures are divided by."""
        return str(self.module.weight_key)

    def check(self, kinds: Iterable[str]) -> None:
        """Refuse a dataset the method cannot read.

        Raises:
            ConfigError: E243, with the methods that could.
        """
        strange = sorted(set(kinds) - set(self.consumes))
        if strange:
            able = [n for n in catalog("methods").names() if set(strange) <= set(catalog("methods").get(n).consumes)]
            raise ConfigError(
                243,
                f"Method `{self.kind}` does not read {', '.join(strange)} rows",
                expected=", ".join(self.consumes),
                fix=f"method.kind={able[0]}" if able else "another data.sources[].format",
            )

    def check_prompt(self, prompt: Prompt, *, place: Callable[[str], str]) -> None:
        """Refuse what the method would not read of `data.prompt`.

        Raises:
            ConfigError: E245, with the line.
        """
        check_method(prompt, self.kind, self.consumes, place=place)

    def head(self) -> HeadSpec | None:
        """Return the task head the method owns, or None."""
        spec: HeadSpec | None = self.module.head(self.options, self.facts)
        return spec

    def encode(self, examples: Iterable[Example], encoder: Encoder) -> Iterator[Encoded]:
        """Yield token ids with loss masks; an example may become several or none (counted in the encoder's report)."""
        yield from self.module.encode(examples, encoder, self.options, self.facts)

    def loss(self, policy: Policy, batch: Batch) -> Sequence[Term]:
        """Return the terms of the loss on one micro-batch."""
        terms: Sequence[Term] = self.module.loss(policy, batch, self.options, self.facts)
        return terms

    def measure(self, policy: Policy, batch: Batch) -> dict[str, float]:
        """Return sums over the batch, such as {"loss": …, "accuracy": …}, for validation; no gradient."""
        sums: dict[str, float] = self.module.measure(policy, batch, self.options, self.facts)
        return sums
