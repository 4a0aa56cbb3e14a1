"""Small real things for tests: a tokenizer with a ChatML template, random models, and a few dozen rows.

Import as `from tiny import …` (pytest puts tests/ on the path).
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|pad|>", "<|im_start|>", "<|im_end|>"]
SENTENCES = [
    "the cat sat on the mat and looked at the rain",
    "please cancel my card, it was stolen on monday",
    "how do i top up my account with a cheque",
    "the doctor asked whether the pain was new",
    "what is the exchange rate today for euros",
    "two plus three makes five, and five plus four makes nine",
]


@cache
def tokenizer() -> Any:
    """Return a byte-level BPE tokenizer of 400 entries with a ChatML template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    core.train_from_iterator(SENTENCES * 4, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|endoftext|>", pad_token="<|pad|>")
    fast.chat_template = CHATML
    return fast


def llama(seed: int = 0, **changes: Any) -> Any:
    """Return a random Llama of two layers, width 32."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    settings = {
        "vocab_size": 416,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "tie_word_embeddings": True,
        "pad_token_id": 1,
        "eos_token_id": 0,
        "bos_token_id": None,
    }
    return LlamaForCausalLM(LlamaConfig(**{**settings, **changes}))


def write_model(folder: Path, seed: int = 0, **changes: Any) -> Path:
    """Write a random Llama with its tokenizer as a Hugging Face directory."""
    llama(seed, **changes).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def chat_rows(n: int = 24) -> list[dict[str, Any]]:
    """Return conversations of differing length."""
    rows = []
    for i in range(n):
        words = SENTENCES[i % 6].split()
        prompt = " ".join(words[: 2 + i % 5]) + f" number {i}?"
        reply = " ".join(words[-(1 + i % 4) :]) + "."
        rows.append({"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": reply}]})
    return rows


def labelled_rows(n: int = 48) -> list[dict[str, str]]:
    """Return texts of three labels that one word decides."""
    topics = {"card": "my card was stolen", "rate": "what is the exchange rate", "pain": "the pain is new"}
    names = list(topics)
    return [{"text": f"{SENTENCES[i % 6]} {topics[names[i % 3]]} {i}", "label": names[i % 3]} for i in range(n)]
