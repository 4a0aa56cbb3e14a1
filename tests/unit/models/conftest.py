"""Small random models of many families, and batches for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from metier.core.batch import Batch
from metier.models.base import Base, from_model

VOCABULARY = 61
SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED = {**SMALL, "num_key_value_heads": 2}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", GROUPED),
    "qwen2": ("Qwen2", {**GROUPED, "tie_word_embeddings": True}),
    "qwen3": ("Qwen3", {**GROUPED, "head_dim": 8}),
    "mistral": ("Mistral", {**GROUPED, "sliding_window": 4}),
    "gemma2": (
        "Gemma2",
        {**GROUPED, "head_dim": 8, "sliding_window": 4, "attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0},
    ),
    "gemma3": ("Gemma3", {**GROUPED, "head_dim": 8, "sliding_window": 4}),
    "olmo": ("Olmo", {**GROUPED, "clip_qkv": 0.5}),
    "olmo2": ("Olmo2", GROUPED),
    "gpt2": ("GPT2", SMALL),
    "gpt_neox": ("GPTNeoX", SMALL),
    "phi3": ("Phi3", GROUPED),
    "granite": ("Granite", {**GROUPED, "logits_scaling": 4.0}),
    "cohere": ("Cohere", {**GROUPED, "logit_scale": 0.25}),
    "gpt_oss": (
        "GptOss",
        {**GROUPED, "head_dim": 8, "sliding_window": 4, "num_local_experts": 4, "num_experts_per_tok": 2},
    ),
    "opt": ("OPT", {**SMALL, "ffn_dim": 48, "word_embed_proj_dim": 32}),
}
ENCODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("Bert", SMALL),
    "roberta": ("Roberta", {**SMALL, "pad_token_id": 1, "bos_token_id": 0}),
    "modernbert": ("ModernBert", {**SMALL, "local_attention": 8, "global_attn_every_n_layers": 2}),
}


def make_model(family: str, **changes: Any) -> Any:
    """Return a random model: `…ForCausalLM` for decoders, `…Model` for encoders."""
    import transformers

    prefix, values = {**FAMILIES, **ENCODERS}[family]
    text = "Text" if family == "gemma3" else ""  # its plain name is that of the model that also sees pictures
    config = getattr(transformers, f"{prefix}{text}Config")(**{**values, **changes})
    suffix = "Model" if family in ENCODERS else "LMHeadModel" if family == "gpt2" else "ForCausalLM"
    torch.manual_seed(3)
    return getattr(transformers, prefix + suffix)(config)


@pytest.fixture
def make_base() -> Callable[..., Base]:
    """`make_base(family, dtype=…, **config)`: a base in memory."""

    def make(family: str, *, dtype: torch.dtype = torch.float32, **changes: Any) -> Base:
        kind = "encoder" if family in ENCODERS else "causal"
        return from_model(make_model(family, **changes), None, kind=kind, name=family, dtype=dtype)

    return make


@pytest.fixture
def make_batch() -> Callable[..., Batch]:
    """`make_batch(rows, pad_id=0)`: random tokens in rows of segments of the given lengths, padded on the right."""
    return random_batch


@pytest.fixture
def saved_model(tmp_path: Path) -> Callable[..., Path]:
    """`saved_model(family)`: a model directory with a tokenizer of one token per word."""

    def save(family: str, **changes: Any) -> Path:
        folder = tmp_path / family
        make_model(family, **changes).save_pretrained(folder)
        word_tokenizer().save_pretrained(folder)
        return folder

    return save


def word_tokenizer(size: int = VOCABULARY) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    names = ["<pad>", "<s>", "</s>", *(f"w{i}" for i in range(size - 3))]
    tokenizer = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="w0"
    )


def random_batch(rows: Sequence[Sequence[int]], *, pad_id: int = 0, seed: int = 0) -> Batch:
    draw = np.random.default_rng(seed)
    width = max(sum(row) for row in rows)
    tokens = np.full((len(rows), width), pad_id, dtype=np.int64)
    segments = np.zeros((len(rows), width), dtype=np.int32)
    positions = np.zeros((len(rows), width), dtype=np.int64)
    for r, row in enumerate(rows):
        start = 0
        for number, length in enumerate(row, start=1):
            tokens[r, start : start + length] = draw.integers(3, VOCABULARY, length)
            segments[r, start : start + length] = number
            positions[r, start : start + length] = np.arange(length)
            start += length
    mask = ((segments > 0) & (positions > 0)).astype(np.float32)
    names = tuple(f"{r}.{s}" for r, row in enumerate(rows) for s in range(len(row)))
    return Batch(
        tokens_BT=tokens,
        loss_mask_BT=mask,
        segments_BT=segments,
        positions_BT=positions,
        example_ids=names,
        weights={"tokens": float(mask.sum()), "examples": float(len(names))},
    )
