"""What evaluation needs of a policy and its encoder, so that anything with these methods can be measured.

`metier.models.policy.Policy` and `metier.data.template.Encoder` are the two that ship.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from metier.core.batch import Batch
from metier.core.types import Completion, Conversation, Labelled, Message, Text

if TYPE_CHECKING:
    import torch

    from metier.data.template import Encoded

Progress = Callable[[str, int, int | None], None]
"""progress(what is being done, rows done, rows in all)."""


class EncoderLike(Protocol):
    """From examples to token ids; data/template.py says what each promises."""

    max_length: int
    pad_id: int
    stop_ids: frozenset[int]

    def conversation(self, example: Conversation, *, replies_only: bool = False) -> list[Encoded]: ...  # noqa: D102
    def text(self, example: Text) -> list[Encoded]: ...  # noqa: D102
    def labelled(self, example: Labelled) -> Encoded: ...  # noqa: D102
    def labelled_text(self, example: Labelled) -> str: ...  # noqa: D102
    def labelled_conversation(self, example: Labelled) -> Conversation: ...  # noqa: D102
    def prompt(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> list[int]: ...  # noqa: D102
    def prompt_and_reply(  # noqa: D102
        self, messages: Sequence[Message], reply: str | Message, tools: Sequence[Mapping[str, Any]] = ()
    ) -> tuple[list[int], list[int]]: ...
    def reply_text(self, token_ids: Sequence[int]) -> str: ...  # noqa: D102


class PolicyLike(Protocol):
    """A model that can be asked; models/policy.py says what each promises."""

    base: Any
    head: Any
    encoder: Any

    def pooled(self, batch: Batch) -> torch.Tensor: ...  # noqa: D102
    def head_logits(self, batch: Batch) -> torch.Tensor: ...  # noqa: D102
    def token_logprobs(self, batch: Batch) -> torch.Tensor: ...  # noqa: D102
    def generate(self, prompts: Sequence[Sequence[int]], **options: Any) -> list[Completion]: ...  # noqa: D102
    def computing(self) -> AbstractContextManager[Any]: ...  # noqa: D102
    def reference(self) -> AbstractContextManager[Any]: ...  # noqa: D102
    def train(self) -> Any: ...  # noqa: D102
    def eval(self) -> Any: ...  # noqa: D102


@contextmanager
def evaluating(policy: PolicyLike) -> Iterator[None]:
    """Measure in evaluation mode and without gradients; a policy that was training goes back to training."""
    import torch

    was_training = bool(policy.base.model.training)
    policy.eval()
    try:
        with torch.no_grad(), policy.computing():
            yield
    finally:
        if was_training:
            policy.train()


def silent(text: str, done: int, total: int | None) -> None:
    """Take progress and say nothing."""
