"""Score given candidates: the log-probability of each, the prompt computed once.

Seventy-seven labels per question, thousands of questions: this is the hot path of an evaluation by label likelihood.
The candidates form a tree of tokens (labels that begin alike share nodes). Prompt and tree go through the model in
*one* forward pass of one row: a mask lets each node see the prompt and its own ancestors, and its position is its
depth. Leaves are never fed, since their probability comes from their parent's logits. A prefix that all prompts of
a call share is computed once for all of them.

The tree needs a plain family (models/cache.py), and the first call on a model proves it: one prompt is scored by the
tree and by the slow path (a forked cache, one row per candidate). Where they disagree the slow path is taken.

Shapes: B prompts, C candidates, N fed nodes, E edges (all nodes), R prompt positions after the prefix, P prefix
positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import torch
from transformers import DynamicCache

from metier.core.errors import ConfigError
from metier.models import attention
from metier.models.cache import Ids, accepts, fork, inference, is_plain, prefill, shared_prefix

LOGIT_VALUES = 1 << 26
"""Logits held at once (64 Mi values, 256 MB in float32)."""
TREE_TOKENS = 4096
"""Token positions of one forward pass over several prompts."""
Scores = npt.NDArray[np.float64]

_proved: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


def score_prompts(model: Any, prompts: Sequence[Ids], candidates: Sequence[Ids], *, pad_id: int = 0) -> Scores:
    """Return the sum of log p (nats) of each candidate's tokens after each prompt, float64 (len(prompts), C).

    An empty candidate scores 0. The candidates' order changes nothing. Several prompts share a forward pass, and all of
    them share their common prefix: worth it where that is long.

    Raises:
        ConfigError: E270, an empty prompt.
    """
    if not all(len(prompt) for prompt in prompts):
        raise ConfigError(
            270, "Scoring cannot start: every prompt needs at least one token", fix="leave the empty prompts out"
        )
    scores = np.zeros((len(prompts), len(candidates)))
    if not len(prompts) or not any(len(candidate) for candidate in candidates):
        return scores
    with inference(model):
        if not _tree_holds(model, prompts[0], candidates, pad_id):
            for index, prompt in enumerate(prompts):
                scores[index] = _score_by_rows(model, prompt, candidates, pad_id)
            return scores
        limit = max(32, LOGIT_VALUES // int(model.get_input_embeddings().weight.shape[0]))
        for where, part in _parts(candidates, limit):
            scores[:, where] = _score_by_tree(model, prompts, _Tree.of(part), pad_id, limit)
    return scores


# ───────────────────────────────────────────────────────────────────────────── the tree


@dataclass(frozen=True, slots=True)
class _Tree:
    """Candidates as a tree. Slot 0 is the end of the prompt, slot 1 + n is fed node n."""

    fed_tokens_N: npt.NDArray[np.int64]
    depths_N: npt.NDArray[np.int64]
    sees_NN: npt.NDArray[np.bool_]
    """Whether fed node n sees fed node m: itself and its ancestors."""
    edge_slots_E: npt.NDArray[np.int64]
    """The slot whose logits predict each edge's token."""
    edge_tokens_E: npt.NDArray[np.int64]
    paths_EC: npt.NDArray[np.float64]
    """1 where an edge lies on a candidate's path."""

    @classmethod
    def of(cls, candidates: Sequence[Ids]) -> _Tree:
        """Build the tree; a node is known by its path from the root."""
        inner = {tuple(c[:k]) for c in candidates for k in range(1, len(c))}
        fed = {path: n for n, path in enumerate(sorted(inner, key=lambda path: (len(path), path)))}
        edges: dict[tuple[int, ...], int] = {}
        on_path: list[tuple[int, int]] = []
        for column, candidate in enumerate(candidates):
            for k in range(1, len(candidate) + 1):
                on_path.append((edges.setdefault(tuple(candidate[:k]), len(edges)), column))
        sees = np.zeros((len(fed), len(fed)), dtype=np.bool_)
        for path, n in fed.items():
            sees[n, [fed[path[:k]] for k in range(1, len(path) + 1)]] = True
        paths = np.zeros((len(edges), len(candidates)))
        paths[tuple(np.array(on_path).T)] = 1.0
        return cls(
            fed_tokens_N=np.array([path[-1] for path in fed], dtype=np.int64),
            depths_N=np.array([len(path) - 1 for path in fed], dtype=np.int64),
            sees_NN=sees,
            edge_slots_E=np.array([1 + fed[path[:-1]] if len(path) > 1 else 0 for path in edges], dtype=np.int64),
            edge_tokens_E=np.array([path[-1] for path in edges], dtype=np.int64),
            paths_EC=paths,
        )


def _parts(candidates: Sequence[Ids], limit: int) -> Iterator[tuple[list[int], list[Ids]]]:
    """Divide the candidates, in alphabetical order so that shared beginnings stay together, by their token count."""
    order = sorted(range(len(candidates)), key=lambda i: tuple(candidates[i]))
    where: list[int] = []
    size = 0
    for index in order:
        if where and size + len(candidates[index]) > limit:
            yield where, [candidates[i] for i in where]
            where, size = [], 0
        where.append(index)
        size += len(candidates[index])
    yield where, [candidates[i] for i in where]


def _score_by_tree(model: Any, prompts: Sequence[Ids], tree: _Tree, pad_id: int, limit: int) -> Scores:
    prefix = shared_prefix(prompts)
    trunk = prefill(model, [prefix], pad_id=pad_id)[0] if prefix else None
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    scores = np.zeros((len(prompts), tree.paths_EC.shape[1]))
    while order:
        size = 1
        while size < len(order) and _fits(size + 1, len(prompts[order[size]]) - len(prefix), tree, limit):
            size += 1
        batch, order = order[:size], order[size:]
        rests = [list(prompts[i][len(prefix) :]) for i in batch]
        scores[batch] = _forward_tree(model, rests, tree, len(prefix), trunk, pad_id)
    return scores


def _fits(rows: int, width: int, tree: _Tree, limit: int) -> bool:
    nodes = len(tree.fed_tokens_N)
    return rows * (width + nodes) <= TREE_TOKENS and rows * (1 + nodes) <= limit


def _forward_tree(model: Any, rests: list[list[int]], tree: _Tree, num_prefix: int, trunk: Any, pad_id: int) -> Scores:
    """Score one batch: [rest of the prompt, padded | fed nodes] per row, on top of the shared prefix."""
    device = model.get_input_embeddings().weight.device
    num_rows, width, num_nodes = len(rests), max(map(len, rests)), len(tree.fed_tokens_N)
    lengths_B1 = np.array([[len(rest)] for rest in rests])
    tokens_BT = np.full((num_rows, width + num_nodes), pad_id, dtype=np.int64)
    for row, rest in zip(tokens_BT, rests, strict=True):
        row[: len(rest)] = rest
        row[width:] = tree.fed_tokens_N
    nodes_BN = num_prefix + lengths_B1 + tree.depths_N
    rest_BR = np.broadcast_to(num_prefix + np.arange(width), (num_rows, width))
    slots_BS = np.concatenate([lengths_B1 - 1, np.broadcast_to(width + np.arange(num_nodes), (num_rows, num_nodes))], 1)
    options: dict[str, Any] = {"past_key_values": fork(trunk, num_rows), "use_cache": True} if trunk is not None else {}
    keep = torch.from_numpy(slots_BS).to(device)
    if accepts(model, "logits_to_keep"):
        options["logits_to_keep"] = keep
    logits_BSV = model(
        input_ids=torch.from_numpy(tokens_BT).to(device),
        position_ids=torch.from_numpy(np.concatenate([rest_BR, nodes_BN], axis=1)).to(device),
        attention_mask=_mask(model, lengths_B1[:, 0], width, tree.sees_NN, num_prefix),
        **{"use_cache": False, **options},
    ).logits
    if "logits_to_keep" not in options:
        logits_BSV = logits_BSV.take_along_dim(keep[..., None], dim=1)
    normalizers_BS = torch.logsumexp(logits_BSV.float(), dim=-1)
    edge_slots = torch.from_numpy(tree.edge_slots_E).to(device)
    edge_logits_BE = logits_BSV[:, edge_slots, torch.from_numpy(tree.edge_tokens_E).to(device)].float()
    edges_BE = (edge_logits_BE - normalizers_BS[:, edge_slots]).cpu().double().numpy()
    scores: Scores = edges_BE @ tree.paths_EC
    return scores


def _mask(
    model: Any, lengths_B: npt.NDArray[np.int64], width: int, sees_NN: npt.NDArray[np.bool_], num_prefix: int
) -> Any:
    """Return who sees whom (B, 1, R + N, P + R + N): bool for SDPA, additive for the eager attention."""
    num_nodes = len(sees_NN)
    mask = np.zeros((len(lengths_B), width + num_nodes, num_prefix + width + num_nodes), dtype=np.bool_)
    mask[:, :, :num_prefix] = True
    mask[:, :width, num_prefix : num_prefix + width] = np.tri(width, dtype=np.bool_)
    real_BR = np.arange(width)[None, :] < lengths_B[:, None]
    mask[:, width:, num_prefix : num_prefix + width] = real_BR[:, None, :]
    mask[:, width:, num_prefix + width :] = sees_NN
    weight = model.get_input_embeddings().weight
    tensor = torch.from_numpy(mask)[:, None].to(weight.device)
    if model.config._attn_implementation == "eager":
        lowest = torch.finfo(weight.dtype).min
        return torch.zeros_like(tensor, dtype=weight.dtype).masked_fill(~tensor, lowest)
    return tensor


# ───────────────────────────────────────────────────────────────────────────── the slow path, and the proof


def _score_by_rows(model: Any, prompt: Ids, candidates: Sequence[Ids], pad_id: int) -> Scores:
    """Fork the prompt's cache, one row per candidate; padding on the right cannot be seen by what stands before it."""
    device = model.get_input_embeddings().weight.device
    trunk: Any = (
        prefill(model, [prompt[:-1]], pad_id=pad_id)[0] if len(prompt) > 1 else DynamicCache(config=model.config)
    )
    scores = np.zeros(len(candidates))
    order = sorted((i for i, c in enumerate(candidates) if len(c)), key=lambda i: len(candidates[i]))
    vocabulary = int(model.get_input_embeddings().weight.shape[0])
    while order:
        size = 1
        while size < len(order) and (size + 1) * len(candidates[order[size]]) * vocabulary <= LOGIT_VALUES:
            size += 1
        rows, order = order[:size], order[size:]
        width = max(len(candidates[i]) for i in rows)
        fed = [[prompt[-1], *candidates[i][:-1], *[pad_id] * (width - len(candidates[i]))] for i in rows]
        out = model(input_ids=torch.tensor(fed, device=device), past_key_values=fork(trunk, size), use_cache=True)
        logprobs_CTV = out.logits.float().log_softmax(-1)
        for place, index in enumerate(rows):
            target = torch.tensor(candidates[index], device=device)
            steps = torch.arange(len(target), device=device)
            scores[index] = float(logprobs_CTV[place, steps, target].cpu().double().sum())
    return scores


def _tree_holds(model: Any, prompt: Ids, candidates: Sequence[Ids], pad_id: int) -> bool:
    """Return whether the tree agrees with the slow path on this model, measured once per model."""
    if model not in _proved:
        some = sorted((c for c in candidates if len(c)), key=len)[-3:]
        if is_plain(model) and model.config._attn_implementation in ("sdpa", "eager", attention.NAME):
            fast = _score_by_tree(model, [prompt], _Tree.of(some), pad_id, LOGIT_VALUES)[0]
            slow = _score_by_rows(model, prompt, some, pad_id)
            num_tokens = np.array([len(c) for c in some])
            low = model.get_input_embeddings().weight.dtype != torch.float32 or torch.is_autocast_enabled("cpu")
            _proved[model] = bool(np.all(np.abs(fast - slow) <= (0.1 if low else 1e-3) * num_tokens))
        else:
            _proved[model] = False
    return _proved[model]
