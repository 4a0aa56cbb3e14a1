"""Ask a policy about rows: by its task head, by the likelihood of each label, by free text, by likelihood alone.

Each function returns one Prediction per example, in the order of the examples. Nothing here knows whether the policy
is the run or its untouched base.

Shapes: N examples, K labels, B rows, T positions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from metier.core.errors import ConfigError
from metier.core.types import Conversation, Labelled, Message, ProblemType, Text
from metier.evaluation.protocols import EncoderLike, PolicyLike, Progress, evaluating, silent
from metier.evaluation.records import as_conversation, prediction_of, reply_of
from metier.metrics import Array, Prediction

if TYPE_CHECKING:
    import torch

    from metier.core.batch import Batch
    from metier.data.template import Encoded

BUDGET_TOKENS = 4096
"""Token positions of one forward pass."""
PROMPTS_AT_ONCE = 64
"""Prompts handed over together; they are sorted by length first."""


# ───────────────────────────────────────────────────────────────────────────── task heads


def predict_head(
    policy: PolicyLike,
    examples: Sequence[Labelled],
    *,
    labels: Sequence[str],
    problem_type: ProblemType,
    progress: Progress = silent,
) -> list[Prediction]:
    """Ask the task head: softmax over labels, sigmoid per label where a row has several, a number for a regression.

    A regression head is trained on standardised targets; its numbers are turned back into the target's unit.
    """
    encodeds = [policy.encoder.labelled(example) for example in examples]
    logits_NK = forward_rows(policy, encodeds, policy.head_logits, progress=progress)
    if problem_type == "regression":
        logits_NK = logits_NK * policy.head.spec.target_scale + policy.head.spec.target_mean
    else:
        logits_NK = logits_NK / policy.head.temperature
    found = from_logits(examples, logits_NK, labels=labels, problem_type=problem_type)
    return [replace(p, cut_tokens=e.cut_tokens) for p, e in zip(found, encodeds, strict=True)]


def pooled_features(
    policy: PolicyLike, examples: Sequence[Labelled], *, progress: Progress = silent
) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return the pooled hidden states (N, D), float32: what a linear probe is fitted on."""
    encodeds = [policy.encoder.labelled(example) for example in examples]
    return forward_rows(policy, encodeds, policy.pooled, progress=progress).astype(np.float32)


def from_logits(
    examples: Sequence[Labelled], logits_NK: Array, *, labels: Sequence[str], problem_type: ProblemType
) -> list[Prediction]:
    """Turn logits (N, K) into predictions; for a regression the only column is the value."""
    if problem_type == "regression":
        values = logits_NK.reshape(len(examples), -1)
        return [prediction_of(e, output=float(v[0])) for e, v in zip(examples, values, strict=True)]
    if problem_type == "multi_label":
        probs_NK = 1 / (1 + np.exp(-np.clip(logits_NK, -500, 500)))
    else:
        shifted = logits_NK - logits_NK.max(axis=1, keepdims=True)
        probs_NK = np.exp(shifted) / np.exp(shifted).sum(axis=1, keepdims=True)
    return from_probabilities(examples, probs_NK, labels=labels, several=problem_type == "multi_label")


def from_probabilities(
    examples: Sequence[Labelled], probs_NK: Array, *, labels: Sequence[str], several: bool = False
) -> list[Prediction]:
    """Turn probabilities (N, K) into predictions: the likeliest label, or with `several` those of at least ½."""
    found = []
    for example, probs in zip(examples, probs_NK, strict=True):
        best = int(probs.argmax())
        chosen = tuple(label for label, p in zip(labels, probs, strict=True) if p >= 0.5) if several else labels[best]
        found.append(
            prediction_of(
                example,
                output=chosen,
                label_probs={label: float(p) for label, p in zip(labels, probs, strict=True)},
                confidence=float(np.where(probs >= 0.5, probs, 1 - probs).mean()) if several else float(probs[best]),
            )
        )
    return found


# ───────────────────────────────────────────────────────────────────────────── labels by likelihood


def predict_label_likelihood(
    policy: PolicyLike, examples: Sequence[Labelled], *, labels: Sequence[str], progress: Progress = silent
) -> list[Prediction]:
    """Choose the label whose text is the likeliest reply, its end included; softmax over labels is the confidence."""
    scores_NK, cut_N = label_scores(policy, examples, labels=labels, progress=progress)
    found = from_logits(examples, scores_NK, labels=labels, problem_type="single_label")
    return [replace(p, cut_tokens=cut) for p, cut in zip(found, cut_N, strict=True)]


def label_scores(
    policy: PolicyLike, examples: Sequence[Labelled], *, labels: Sequence[str], progress: Progress = silent
) -> tuple[Array, list[int]]:
    """Return log p(label | prompt) in nats (N, K), and the tokens that each prompt lost at its start.

    A prompt is computed once for all labels.

    Raises:
        ConfigError: E278, the longest label leaves no room for a prompt.
    """
    from metier.models.score import score_prompts

    if not examples:
        return np.zeros((0, len(labels))), []
    encoder: EncoderLike = policy.encoder
    candidates = label_ids(encoder, min(examples, key=lambda e: len(e.text)), labels)
    longest = max(map(len, candidates))
    if longest >= encoder.max_length:
        raise ConfigError(
            278,
            "The longest label leaves no room for a text before it",
            received=f"a label of {longest:,} tokens",
            expected=f"fewer than training.max_length, {encoder.max_length:,}",
            fix=f"a training.max_length well above {longest:,}, or shorter labels",
        )
    fitted = [fit(_prompt_ids(encoder, e), encoder.max_length - longest) for e in examples]
    prompts = [prompt for prompt, _ in fitted]
    scores_NK = np.zeros((len(examples), len(labels)))
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    with evaluating(policy):
        for start in range(0, len(order), PROMPTS_AT_ONCE):
            part = order[start : start + PROMPTS_AT_ONCE]
            scores_NK[part] = score_prompts(
                policy.base.model, [prompts[i] for i in part], candidates, pad_id=encoder.pad_id
            )
            progress("labels by likelihood", start + len(part), len(order))
    return scores_NK, [cut for _, cut in fitted]


def label_ids(encoder: EncoderLike, example: Labelled, labels: Sequence[str]) -> list[list[int]]:
    """Return each label's reply as token ids, its end of turn included, as training would have rendered it."""
    messages = encoder.labelled_conversation(example).messages[:-1]
    num_prompt = len(encoder.prompt(messages))
    found = []
    for label in labels:
        prompt, reply = encoder.prompt_and_reply(messages, label)
        found.append([*prompt, *reply][num_prompt:])
    return found


# ───────────────────────────────────────────────────────────────────────────── free text


def predict_generate(
    policy: PolicyLike,
    examples: Sequence[Conversation | Labelled],
    *,
    max_new_tokens: int,
    labels: Sequence[str] = (),
    progress: Progress = silent,
) -> list[Prediction]:
    """Let the policy answer greedily; the reference is the last reply of the row.

    With `labels` the text is matched with a label, white space and case aside; no match gives an empty output.
    """
    encoder: EncoderLike = policy.encoder
    conversations = [as_conversation(encoder, example) for example in examples]
    room = encoder.max_length - 1
    fitted = [fit(encoder.prompt(c.messages[:-1], c.tools), room) for c in conversations]
    known = {_loose(label): label for label in labels}
    found: dict[int, Prediction] = {}
    order = sorted(range(len(fitted)), key=lambda i: len(fitted[i][0]))
    with evaluating(policy):
        for start in range(0, len(order), PROMPTS_AT_ONCE):
            part = order[start : start + PROMPTS_AT_ONCE]
            completions = policy.generate([fitted[i][0] for i in part], max_new_tokens=max_new_tokens, temperature=0.0)
            for i, completion in zip(part, completions, strict=True):
                said = encoder.reply_text(completion.token_ids)
                text = said.strip()
                found[i] = prediction_of(
                    examples[i],
                    output=known.get(_loose(text), "") if labels else text,
                    raw=said,
                    finish=completion.finish,
                    cut_tokens=fitted[i][1],
                    reference=None if labels else reply_of(conversations[i]),
                )
            progress("answers", start + len(part), len(order))
    return [found[i] for i in range(len(examples))]


def predict_text(
    policy: PolicyLike, examples: Sequence[Text | Conversation | Labelled], *, progress: Progress = silent
) -> list[Prediction]:
    """Measure how likely the policy finds each text, or each row's replies: nats, tokens, bytes."""
    encoder: EncoderLike = policy.encoder
    owners: list[int] = []
    encodeds: list[Encoded] = []
    for position, example in enumerate(examples):
        parts = (
            encoder.text(example)
            if isinstance(example, Text)
            else encoder.conversation(as_conversation(encoder, example))
        )
        kept = [part for part in parts if (part.loss_mask > 0).any()]
        encodeds += kept
        owners += [position] * len(kept)
    nats, tokens, num_bytes, cut = (np.zeros(len(examples)) for _ in range(4))
    tokenizer = policy.base.tokenizer
    for owner, encoded, loss in zip(owners, encodeds, _nats(policy, encodeds, progress), strict=True):
        supervised = encoded.token_ids[encoded.loss_mask > 0]
        nats[owner] += loss
        tokens[owner] += len(supervised)
        num_bytes[owner] += len(
            tokenizer.decode(supervised.tolist(), skip_special_tokens=True).encode("utf-8", "replace")
        )
        cut[owner] += encoded.cut_tokens
    return [
        prediction_of(
            e,
            reference=reply_of(as_conversation(encoder, e)) if not isinstance(e, Text) else e.text,
            nll=float(nats[i]) if tokens[i] else None,
            num_tokens=int(tokens[i]),
            num_bytes=int(num_bytes[i]),
            cut_tokens=int(cut[i]),
        )
        for i, e in enumerate(examples)
    ]


def _nats(policy: PolicyLike, encodeds: Sequence[Encoded], progress: Progress) -> Array:
    """Return the summed -log p of each encoded row's supervised tokens."""
    found = np.zeros(len(encodeds))
    for positions, batch, logprobs in _batches(policy, encodeds, policy.token_logprobs, "likelihood", progress):
        losses_B = -(logprobs.cpu().double().numpy() * (batch.loss_mask_BT > 0)).sum(axis=1)
        found[positions] = losses_B
    return found


# ───────────────────────────────────────────────────────────────────────────── forward passes


def forward_rows(
    policy: PolicyLike,
    encodeds: Sequence[Encoded],
    call: Callable[[Batch], torch.Tensor],
    *,
    progress: Progress = silent,
) -> Array:
    """Return `call(batch)` for all rows as one float64 array (N, …), in the order of `encodeds`."""
    found: Array | None = None
    for positions, _, values in _batches(policy, encodeds, call, "rows", progress):
        array = values.cpu().double().numpy()
        if found is None:
            found = np.zeros((len(encodeds), *array.shape[1:]))
        found[positions] = array
    return np.zeros((0, 1)) if found is None else found


def _batches(
    policy: PolicyLike,
    encodeds: Sequence[Encoded],
    call: Callable[[Batch], torch.Tensor],
    what: str,
    progress: Progress,
) -> Iterator[tuple[list[int], Batch, torch.Tensor]]:
    """Yield (positions in `encodeds`, batch, what `call` returned); one example per row, so row order is theirs."""
    from metier.data.batching import collate, micro_batches

    if not encodeds:
        return
    lengths = np.array([len(e.token_ids) for e in encodeds])
    done = 0
    with evaluating(policy):
        for rows in micro_batches(lengths, budget_tokens=BUDGET_TOKENS, packing=False):
            batch = collate(encodeds, rows, pad_id=policy.encoder.pad_id)
            positions = [i for row in rows for i in row]
            yield positions, batch, call(batch)
            done += len(positions)
            progress(what, done, len(encodeds))


def _prompt_ids(encoder: EncoderLike, example: Labelled) -> list[int]:
    messages: tuple[Message, ...] = encoder.labelled_conversation(example).messages
    return list(encoder.prompt(messages[:-1]))


def fit(prompt: list[int], room: int) -> tuple[list[int], int]:
    """Return a prompt of at most `room` tokens, and how many of its start were cut; its end asks the question.

    Measuring and serving cut alike, so that a served prompt is a measured prompt.
    """
    cut = max(0, len(prompt) - max(room, 1))
    return prompt[cut:], cut


def _loose(text: str) -> str:
    return " ".join(text.split()).casefold()
