"""Produce tokens: our own loop over a Hugging Face causal model with a key-value cache.

A completion depends on its prompt, the options and the seed, never on what else is in the batch: greedy decoding
takes the arg max per row, and sampling draws from a random stream that belongs to the prompt (and, where one prompt
stands several times in the call, to its occurrence). Prompts are sorted by length, rows of one batch share whatever
prefix they have, finished rows leave the batch.

Left out: beam search, repetition penalties, speculative decoding.

Shapes: B rows, T positions, V vocabulary.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from metier.core.errors import ConfigError, MachineError
from metier.core.types import Completion
from metier.models.cache import Ids, accepts, context_window, inference, is_plain, prefill

BATCH_TOKENS = 16_384
"""Cache positions held at once: rows × (prompt + new tokens)."""


@dataclass(slots=True)
class _Row:
    """One prompt on its way: what it has produced so far."""

    index: int
    prompt: Ids
    limit: int
    draws: npt.NDArray[np.float64] | None
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    stopped: bool = False


@dataclass(frozen=True, slots=True)
class _Sampling:
    temperature: float
    top_k: int
    top_p: float


def generate(
    model: Any,
    prompts: Sequence[Ids],
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
    stop_ids: Collection[int] = (),
    pad_id: int = 0,
    batch_tokens: int = BATCH_TOKENS,
    decode: Callable[[Sequence[int]], str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Completion]:
    """Return one completion per prompt, in the order of the prompts.

    Args:
        model: a causal model with its head (`AutoModelForCausalLM`), on any device.
        prompts: token ids; none may be empty.
        max_new_tokens: cap on the produced tokens; the context window caps them too (finish `length`).
        temperature: 0 is greedy; else the logits are divided by it, and draws follow.
        top_k: sample among the k likeliest tokens only; 0 = all.
        top_p: sample among the likeliest tokens that together hold this probability (Holtzman et al. 2020).
        seed: of the sampling; each prompt has its own stream, whatever its place in the list.
        stop_ids: a token of this set ends the completion and is its last token.
        pad_id: fills short rows; any valid id, it is never attended to.
        batch_tokens: cache positions held at once.
        decode: token ids → text, called without the final stop token; without it `text` is empty.
        progress: called with (prompts done, prompts).

    Each completion's `logprob` and `token_logprobs` are the model's own (temperature 1, no filter), in nats.

    Raises:
        ConfigError: E270, an option out of range, or an empty prompt.
        MachineError: E400, a prompt that fills the context window by itself.
    """
    _check(prompts, max_new_tokens, temperature, top_k, top_p)
    rows = _rows(prompts, max_new_tokens, context_window(model), seed if temperature > 0 else None)
    sampling = _Sampling(temperature, top_k, top_p)
    done = 0
    with inference(model):
        for batch in _batches(rows, batch_tokens=batch_tokens, ragged=is_plain(model)):
            _complete(model, batch, sampling, frozenset(stop_ids), pad_id)
            done += len(batch)
            if progress is not None:
                progress(done, len(rows))
    return [_completion(row, decode) for row in rows]


# ───────────────────────────────────────────────────────────────────────────── before


def _check(prompts: Sequence[Ids], max_new_tokens: int, temperature: float, top_k: int, top_p: float) -> None:
    problems = {
        "max_new_tokens must be at least 1": max_new_tokens < 1,
        "temperature must be 0 (greedy) or more": not temperature >= 0,
        "top_k must be 0 (all tokens) or more": top_k < 0,
        "top_p must lie in (0, 1]": not 0 < top_p <= 1,
        "every prompt needs at least one token": not all(len(prompt) for prompt in prompts),
    }
    for sentence, wrong in problems.items():
        if wrong:
            raise ConfigError(270, f"Generation cannot start: {sentence}", fix="correct the value, then repeat")


def _rows(prompts: Sequence[Ids], max_new_tokens: int, window: int | None, seed: int | None) -> list[_Row]:
    seen: Counter[bytes] = Counter()
    rows = []
    for index, prompt in enumerate(prompts):
        room = max_new_tokens if window is None else min(max_new_tokens, window - len(prompt))
        if room < 1:
            raise MachineError(
                400,
                "A prompt leaves no room for an answer in the model's context window",
                place=f"prompt {index + 1}",
                received=f"{len(prompt)} tokens",
                expected=f"fewer than {window}",
                fix="shorter prompts, or a base model with a longer context window",
            )
        draws = None
        if seed is not None:
            content = np.asarray(prompt, dtype="<i8").tobytes()
            name = hashlib.blake2b(content + seen[content].to_bytes(8, "little"), digest_size=8).digest()
            draws = np.random.default_rng([seed, int.from_bytes(name, "little")]).random(room)
            seen[content] += 1
        rows.append(_Row(index, prompt, room, draws))
    return rows


def _batches(rows: Sequence[_Row], *, batch_tokens: int, ragged: bool) -> Iterator[list[_Row]]:
    """Cut the rows, sorted by length, into batches within the budget; unequal lengths only where gaps are harmless."""
    batch: list[_Row] = []
    for row in sorted(rows, key=lambda row: (len(row.prompt), row.limit)):
        width = len(row.prompt) + max([row.limit, *(r.limit for r in batch)])
        unequal = batch and not ragged and len(batch[0].prompt) != len(row.prompt)
        if batch and (unequal or (len(batch) + 1) * width > batch_tokens):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


# ───────────────────────────────────────────────────────────────────────────── the loop


def _complete(model: Any, batch: list[_Row], sampling: _Sampling, stop_ids: frozenset[int], pad_id: int) -> None:
    """Fill the rows of one batch. The last prompt token is fed by the loop, so that each step yields one logit row."""
    cache, visible_BS = prefill(model, [row.prompt[:-1] for row in batch], pad_id=pad_id)
    device = visible_BS.device
    ragged = not bool(visible_BS.all())
    tokens_B = torch.tensor([row.prompt[-1] for row in batch], device=device)
    positions_B = torch.tensor([len(row.prompt) - 1 for row in batch], device=device)
    options: dict[str, Any] = {"logits_to_keep": 1} if accepts(model, "logits_to_keep") else {}
    places = accepts(model, "position_ids")
    while batch:
        visible_BS = torch.nn.functional.pad(visible_BS, (0, 1), value=True)
        if places:
            options["position_ids"] = positions_B[:, None]
        if ragged:
            options["attention_mask"] = visible_BS
        out = model(input_ids=tokens_B[:, None], past_key_values=cache, use_cache=True, **options)
        cache = out.past_key_values
        tokens_B, logprobs_B = _choose(out.logits[:, -1].float(), batch, sampling)
        positions_B = positions_B + 1
        alive = _record(batch, tokens_B.tolist(), logprobs_B.tolist(), stop_ids)
        if len(alive) < len(batch):
            batch = [batch[i] for i in alive]
            if batch:
                keep = torch.tensor(alive, device=device)
                cache.batch_select_indices(keep)
                tokens_B, positions_B, visible_BS = tokens_B[keep], positions_B[keep], visible_BS[keep]


def _record(batch: list[_Row], tokens: list[int], logprobs: list[float], stop_ids: frozenset[int]) -> list[int]:
    """Append each row's new token and return the places of the rows that go on."""
    alive = []
    for place, (row, token, logprob) in enumerate(zip(batch, tokens, logprobs, strict=True)):
        row.token_ids.append(token)
        row.logprobs.append(logprob)
        row.stopped = token in stop_ids
        if not row.stopped and len(row.token_ids) < row.limit:
            alive.append(place)
    return alive


def _choose(logits_BV: torch.Tensor, batch: list[_Row], sampling: _Sampling) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the next tokens (B) and their log-probabilities under the model (B)."""
    if sampling.temperature == 0:
        tokens_B1 = logits_BV.argmax(-1, keepdim=True)
    else:
        draws = [float(row.draws[len(row.token_ids)]) for row in batch if row.draws is not None]
        # Draws take float64, which not every accelerator has; a CPU always does.
        near_BV = logits_BV if logits_BV.device.type == "cuda" else logits_BV.cpu()
        draws_B1 = torch.tensor(draws, dtype=torch.float64, device=near_BV.device)[:, None]
        tokens_B1 = _sample(near_BV, draws_B1, sampling).to(logits_BV.device)
    logprobs_B = logits_BV.gather(-1, tokens_B1)[:, 0] - logits_BV.logsumexp(-1)
    return tokens_B1[:, 0], logprobs_B


def _sample(logits_BV: torch.Tensor, draws_B1: torch.Tensor, sampling: _Sampling) -> torch.Tensor:
    """Invert the cumulative distribution at one uniform draw per row: temperature, then top-k, then top-p."""
    scaled_BV = logits_BV / sampling.temperature
    ids_BV = None
    if sampling.top_k and sampling.top_k < scaled_BV.shape[-1]:
        scaled_BV, ids_BV = scaled_BV.topk(sampling.top_k, dim=-1)
    elif sampling.top_p < 1:
        scaled_BV, ids_BV = scaled_BV.sort(dim=-1, descending=True, stable=True)
    probs_BV = scaled_BV.double().softmax(-1)
    if sampling.top_p < 1:
        before_BV = probs_BV.cumsum(-1) - probs_BV
        probs_BV = torch.where(before_BV < sampling.top_p, probs_BV, 0.0)
    cumulative_BV = probs_BV.cumsum(-1)
    # side right: a draw of exactly 0 must not land on a token of probability 0.
    picked_B1 = torch.searchsorted(cumulative_BV, draws_B1 * cumulative_BV[:, -1:], right=True)
    last_B1 = (probs_BV > 0).long().cumsum(-1).argmax(-1, keepdim=True)
    picked_B1 = torch.minimum(picked_B1, last_B1)
    return picked_B1 if ids_BV is None else ids_BV.gather(-1, picked_B1)


# ───────────────────────────────────────────────────────────────────────────── after


def _completion(row: _Row, decode: Callable[[Sequence[int]], str] | None) -> Completion:
    spoken = row.token_ids[:-1] if row.stopped else row.token_ids
    return Completion(
        text="" if decode is None else decode(spoken),
        token_ids=tuple(row.token_ids),
        logprob=float(sum(row.logprobs)),
        finish="stop" if row.stopped else "length",
        token_logprobs=tuple(row.logprobs),
    )
