"""Conversation → token ids + loss mask. The only place in Metier that tokenises, for training, evaluation and serving.

How the mask comes about: the conversation is rendered through the tokenizer's own chat template up to each reply and
through it (turns.py), the whole text is tokenised once, and the tokens of the prompt are exactly those that serving
will send: `prompt(messages)` is a prefix of `conversation(...)` by construction, also with tokenizers that merge
across the boundary. What is supervised is decoded again and compared with the reply; a row that fails is named.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from metier.core.sections import Prompt
from metier.core.types import Conversation, Example, Labelled, Message, Text
from metier.data import refusals
from metier.data.dialect import choose
from metier.data.encoded import Encoded
from metier.data.lengths import LengthReport, Lengths
from metier.data.prompt import DEFAULT_USER, ask, fill, written
from metier.data.tokenizer import FastTokenizer, Tokens
from metier.data.turns import Plan, Planner, Turn

BATCH = 256
"""Conversations that are tokenised together: enough for the tokenizer's threads, little in memory."""


LISTED_CHARS = 200
"""Label names up to this length together are listed in the default question of a labelled row."""


class Encoder:
    """Everything that turns examples into tokens for one model.

    Args:
        tokenizer: a fast Hugging Face tokenizer.
        max_length: cap on the tokens of an example.
        truncation: `left`, `right`, `drop` or `error`: what happens to a longer one. Always counted in `report`.
        prompt: how a labelled row becomes a conversation; None: the default of `labelled_conversation`.
        chat_template: `chatml`, `plain`, Jinja source, or None for the tokenizer's own.
        labels: label names in their frozen order.
        assistant_only_loss: loss on the replies only; False: on every token.
        place: says where a key of the recipe stands (Recipe.place), for errors about the recipe; it decides no token.

    Raises:
        ConfigError: E241 a template that cannot be used, E242 a tokenizer without a fast implementation.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        max_length: int,
        truncation: str = "right",
        prompt: Prompt | None = None,
        chat_template: str | None = None,
        labels: tuple[str, ...] = (),
        assistant_only_loss: bool = True,
        place: Callable[[str], str] = lambda key: "",
    ) -> None:
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.truncation = truncation
        self.labels = tuple(labels)
        self.assistant_only_loss = assistant_only_loss
        self.row_prompt = prompt or Prompt()
        self.notes: Counter[str] = Counter()
        """What had to be done to rows, in words, with how often."""
        self._place = place
        self._fast = FastTokenizer(tokenizer)
        self._lengths = Lengths()
        self.dialect = choose(self._fast, tokenizer, chat_template)
        self.stop_ids = self._find_stop_ids()
        """Tokens at which generation ends: end-of-sequence, and the template's end of turn."""
        self.pad_id = next((i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id) if i is not None), 0)
        self._planner = (
            Planner(self.dialect, [self._fast.text_of(i) for i in sorted(self.stop_ids)], self.notes)
            if self.dialect
            else None
        )

    # ── conversations ──

    def conversation(self, example: Conversation, *, replies_only: bool = False) -> list[Encoded]:
        """Return the encoded example: usually one; one per trained reply where the template rewrites earlier turns.

        An empty list means that no supervised token is left (no reply, or truncation took it): counted in `report`.

        Args:
            replies_only: the mask is of the replies whatever `assistant_only_loss` says: what is measured is the reply,
                also where the prompts are trained on.

        Raises:
            ConfigError: E240, neither tokenizer nor recipe has a chat template.
            DataError: E350 reply and mask do not agree, E351 no end of turn, E352 double BOS, E353 a field that the
                template drops, E355 the template refuses the row, E357 longer than max_length with `error`.
        """
        return self._conversations([example], replies_only=replies_only)

    def prompt(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> list[int]:
        """Return the token ids that a reply follows: a prefix of what `conversation` gives for prompt + reply.

        Raises:
            ConfigError: E240; DataError: E352, E353, E355, as for `conversation`.
        """
        plan = self._need_planner().prompt(messages, tools)
        refusals.half_characters(plan.text, "")
        tokens = self._fast.cut(plan.text, plan.cuts)[-1]
        refusals.double_bos(tokens.ids, self.tokenizer.bos_token_id, "")
        return tokens.ids

    def prompt_and_reply(
        self, messages: Sequence[Message], reply: str | Message, tools: Sequence[Mapping[str, Any]] = ()
    ) -> tuple[list[int], list[int]]:
        """Return the ids of a prompt and of one reply to it, end-of-turn token included: what scoring compares.

        Raises:
            As `conversation`; nothing is truncated.
        """
        message = Message("assistant", reply) if isinstance(reply, str) else replace(reply, weight=1.0)
        example = Conversation(messages=(*(replace(m, weight=0) for m in messages), message), tools=tuple(tools))
        plan = self._need_planner().conversation(example)[-1]
        stages = self._fast.cut(plan.text, plan.cuts)
        start, end = self._span(plan, stages, plan.turns[-1])
        return stages[-1].ids[:start], stages[-1].ids[start:end]

    def reply_text(self, token_ids: Sequence[int]) -> str:
        """Return what a completion says: up to its stop token, without what the template writes around each reply."""
        end = next((n for n, i in enumerate(token_ids) if i in self.stop_ids), len(token_ids))
        text = self._fast.decode(list(token_ids[:end]))
        if self.dialect:
            text = text.removeprefix(self.dialect.lead)
            stop = [self.dialect.tail.find(self._fast.text_of(i)) for i in self.stop_ids]
            text = text.removesuffix(self.dialect.tail[: min((s for s in stop if s >= 0), default=0)])
        return text

    def decode_span(self, token_ids: Iterable[int], start: int, end: int) -> str:
        """Return the text of tokens start…end as it stands after the token before them, special tokens included."""
        return self._fast.decode_span([int(i) for i in token_ids], start, end)

    def is_special(self, token_id: int) -> bool:
        """Return whether a token is one of the tokenizer's special or added tokens."""
        return self._fast.is_special(token_id)

    # ── labelled rows ──

    def labelled_conversation(self, example: Labelled) -> Conversation:
        """Return a labelled row as a conversation whose reply is its target.

        `data.prompt` writes the question; `{text}`, `{labels}` and the row's other columns are filled in. The default
        names the labels where they are short enough together to be worth their tokens.

        Raises:
            RowError: `no-prompt-column`, the prompt names a column that the row lacks.
        """
        asked = ask(self.question, {**example.meta, "text": example.text, "labels": self.labels})
        answer = Message("assistant", written(example.target))
        return Conversation(messages=(*asked, answer), id=example.id, place=example.place, meta=example.meta)

    @property
    def question(self) -> Prompt:
        """How a labelled row is asked: `data.prompt`, or the default, with the labels where they cost few tokens."""
        if self.row_prompt.user is not None:
            return self.row_prompt
        short = 0 < len(", ".join(self.labels)) <= LISTED_CHARS
        return self.row_prompt.model_copy(
            update={"user": f"Classify the text{' as one of: {labels}' if short else ''}.\nText: {{text}}\nLabel:"}
        )

    def labelled_text(self, example: Labelled) -> str:
        """Return what a row says to a task head: the user's prompt with the row's columns filled in, or its text.

        Raises:
            RowError: `no-prompt-column`.
        """
        return fill(self.row_prompt.user or DEFAULT_USER, {**example.meta, "text": example.text, "labels": self.labels})

    def labelled(self, example: Labelled) -> Encoded:
        """Return a row for a task head: the text between the tokenizer's own special tokens, no supervised token.

        One that is over max_length is cut even with truncation `drop`, since a question must get an answer; `encode`
        leaves it out.

        Raises:
            RowError: `no-prompt-column`; DataError: E357; E372, not one token.
        """
        text = self.labelled_text(example)
        refusals.half_characters(text, example.place)
        before, ids, after = self._fast.with_specials(text)
        if not (before or ids or after):
            raise refusals.no_token(example.place)
        room = max(self.max_length - len(before) - len(after), 0)
        cut = max(len(ids) - room, 0)
        dropped = bool(cut) and self.truncation == "drop"
        self._lengths.add(len(before) + len(ids) + len(after), cut, example.place, dropped=dropped)
        if cut:
            if self.truncation == "error":
                raise refusals.too_long(len(ids) + len(before) + len(after), self.max_length, example.place)
            ids = ids[cut:] if self.truncation == "left" else ids[:room]
        whole = np.asarray([*before, *ids, *after], dtype=np.int32)
        mask = np.zeros(len(whole), dtype=np.float32)
        return Encoded(example.id, whole, mask, len(whole), cut, example.target)

    # ── raw text ──

    def text(self, example: Text) -> list[Encoded]:
        """Return raw text in blocks of at most max_length tokens, each token but the first supervised.

        The document ends with the end-of-sequence token, where there is one. Blocks overlap by one token, so that
        each token is predicted exactly once.

        Raises:
            DataError: E352, double BOS; E358, half of a character.
        """
        refusals.half_characters(example.text, example.place)
        bos, ids, after = self._text_parts(example.text)
        eos = self.tokenizer.eos_token_id
        ending = after if eos in after else [eos] if eos is not None else []
        whole = [*bos, *ids, *ending] if ids else []
        refusals.double_bos(whole, self.tokenizer.bos_token_id, example.place)
        blocks = []
        for start in range(0, max(len(whole) - 1, 0), self.max_length - 1):
            block = np.asarray(whole[start : start + self.max_length], dtype=np.int32)
            mask = np.ones(len(block), dtype=np.float32)
            mask[0] = 0.0
            blocks.append(Encoded(example.id, block, mask, 1))
        self._lengths.add(len(whole), 0, example.place, supervised=max(len(whole) - 1, 0), dropped=not blocks)
        return blocks

    def beginning(self, text: str) -> list[int]:
        """Return the token ids of raw text that goes on: as `text` gives them, without the end of the sequence.

        Raises:
            DataError: E352, double BOS; E358, half of a character.
        """
        refusals.half_characters(text, "")
        bos, ids, _ = self._text_parts(text)
        refusals.double_bos([*bos, *ids], self.tokenizer.bos_token_id, "")
        return [*bos, *ids]

    def _text_parts(self, text: str) -> tuple[list[int], list[int], list[int]]:
        """Return the beginning-of-sequence token where there is one, the text, and what the tokenizer puts behind."""
        before, ids, after = self._fast.with_specials(text)
        return before if before == [self.tokenizer.bos_token_id] else [], ids, after

    # ── many ──

    def encode(self, examples: Iterable[Example], *, head: bool = False) -> Iterator[Encoded]:
        """Yield all examples encoded, in batches; with `head` labelled rows are for a task head, not conversations.

        Raises:
            DataError: E354, not one supervised token in all examples; else as the method per kind of example.
        """
        kept = seen = 0
        source = iter(examples)
        while batch := list(islice(source, BATCH)):
            seen += len(batch)
            for encoded in self._encode_batch(batch, head):
                kept += 1
                yield encoded
        if seen and not kept:
            place = self._place("training.max_length")
            raise refusals.nothing_supervised(seen, self.report.longest, self.max_length, place)

    @property
    def report(self) -> LengthReport:
        """Lengths, cut and dropped rows of everything encoded so far."""
        return self._lengths.report()

    def fingerprint(self) -> str:
        """Return a digest of all that decides the tokens: tokenizer, template, options and the code itself."""
        options = {
            "max_length": self.max_length,
            "truncation": self.truncation,
            "prompt": self.row_prompt.model_dump(),
            "labels": list(self.labels),
            "assistant_only_loss": self.assistant_only_loss,
            "template": self.dialect.source if self.dialect else None,
        }
        return self._fast.fingerprint(options)

    # ── inside ──

    def _find_stop_ids(self) -> frozenset[int]:
        found = {i for i in (self.tokenizer.eos_token_id,) if i is not None}
        if self.dialect:
            for tail in (self.dialect.tail, self.dialect.tool_tail):
                first = self._fast.first_special(tail)
                if first is not None:
                    found.add(first)
        return frozenset(found)

    def _need_planner(self) -> Planner:
        if self._planner is None:
            raise refusals.no_template(self._place("model.chat_template"))
        return self._planner

    def _encode_batch(self, batch: Sequence[Example], head: bool) -> Iterator[Encoded]:
        conversations = [self.labelled_conversation(e) if isinstance(e, Labelled) and not head else e for e in batch]
        if all(isinstance(e, Conversation) for e in conversations):
            yield from self._conversations([e for e in conversations if isinstance(e, Conversation)])
            return
        for example in conversations:
            if isinstance(example, Conversation):
                yield from self._conversations([example])
            elif isinstance(example, Text):
                yield from self.text(example)
            elif isinstance(example, Labelled):
                encoded = self.labelled(example)
                if not (encoded.cut_tokens and self.truncation == "drop"):
                    yield encoded
            else:
                raise refusals.no_reply(type(example).__name__.lower(), example.place)

    def _conversations(self, examples: Sequence[Conversation], *, replies_only: bool = False) -> list[Encoded]:
        planner = self._need_planner()
        plans = []
        for example in examples:
            found = planner.conversation(example)
            if not found:
                self._lengths.add(0, 0, example.place, dropped=True)
            plans.extend(found)
        for plan in plans:
            refusals.half_characters(plan.text, plan.place)
        tokens = self._fast.cut_all([(p.text, p.cuts) for p in plans])
        replies_only = replies_only or self.assistant_only_loss
        encoded = [
            self._bounded(plan, *self._mask(plan, t, replies_only)) for plan, t in zip(plans, tokens, strict=True)
        ]
        return [e for e in encoded if e is not None]

    def _mask(self, plan: Plan, stages: list[Tokens], replies_only: bool) -> tuple[list[int], npt.NDArray[np.float32]]:
        """Return ids and mask of one plan, proved turn by turn."""
        ids = stages[-1].ids
        refusals.double_bos(ids, self.tokenizer.bos_token_id, plan.place)
        mask = np.zeros(len(ids), dtype=np.float32)
        for turn in plan.turns:
            start, end = self._span(plan, stages, turn)
            mask[start:end] = turn.weight
        if not replies_only:
            mask[:] = 1.0
        mask[:1] = 0.0
        return ids, mask

    def _span(self, plan: Plan, stages: list[Tokens], turn: Turn) -> tuple[int, int]:
        """Return the tokens of a reply, proved: they decode to it and end in a stop token."""
        tokens, start = stages[-1], len(stages[plan.cuts.index(turn.start)].ids)
        last = tokens.at(turn.end - 1)
        if last is None or tokens.ids[last] not in self.stop_ids:
            raise refusals.no_stop_token(plan.place, turn.index)
        said = self._fast.decode_span(tokens.ids, start, last + 1)
        if not self._fast.same(plan.text[turn.start : turn.end], said, self.notes):
            raise refusals.not_the_reply(plan.place, turn.index)
        if not self.stop_ids.isdisjoint(tokens.ids[start:last]):
            self.notes["stop token inside a reply: the row's own text holds it"] += 1
        return start, last + 1

    def _bounded(self, plan: Plan, ids: list[int], mask: npt.NDArray[np.float32]) -> Encoded | None:
        """Apply max_length; tokens after the last supervised one are left out, since nothing learns from them."""
        supervised = np.flatnonzero(mask)
        length = int(supervised[-1]) + 1 if len(supervised) else 0
        cut = max(length - self.max_length, 0)
        start = 0
        if cut:
            if self.truncation == "error":
                raise refusals.too_long(length, self.max_length, plan.place)
            start = cut if self.truncation == "left" else 0
        end = start + min(length, self.max_length)
        kept = np.array(mask[start:end])
        kept[:1] = 0.0
        dropped = not kept.any() or bool(cut and self.truncation == "drop")
        self._lengths.add(length, cut, plan.place, supervised=int(np.count_nonzero(kept)), dropped=dropped)
        if dropped:
            return None
        token_ids = np.asarray(ids[start:end], dtype=np.int32)
        return Encoded(plan.id, token_ids, kept, int(np.flatnonzero(kept)[0]), cut)


__all__ = ["Encoded", "Encoder"]
