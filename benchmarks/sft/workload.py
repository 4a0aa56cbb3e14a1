"""Workload W1: one model directory and one dump of token ids and masks, which every contestant reads.

Runs in Metier's environment. Writes into the work folder

    model/         random weights from one seed (float32 safetensors), tokenizer, chat template
    data.npz       token ids, loss masks and offsets of the examples of training and evaluation; the examples
                   of each step
    adapter/       for LoRA: one initial adapter in PEFT's format, so that both sides start from the same A and B
    workload.json  the settings
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

END, PAD, OPEN, CLOSE = "<|endoftext|>", "<|pad|>", "<|im_start|>", "<|im_end|>"
TOKENIZER_SIZE = 8192
BOOK_CHARACTERS = 2_000_000
SHAPES: dict[str, dict[str, int] | None] = {
    "15m": {
        "vocab_size": 32000,
        "hidden_size": 288,
        "intermediate_size": 768,
        "num_hidden_layers": 6,
        "num_attention_heads": 6,
        "num_key_value_heads": 6,
    },
    "nano": None,  # the shipped config.json of metier/nano
    "135m": {
        "vocab_size": 49152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
    },
    "18m": {
        "vocab_size": 32000,
        "hidden_size": 288,
        "intermediate_size": 768,
        "num_hidden_layers": 8,
        "num_attention_heads": 6,
        "num_key_value_heads": 6,
    },
    "tiny": {
        "vocab_size": 8192,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
}
"""`tiny` is for trying the script out; no figure of it is ever shown. All are Llama-shaped with tied embeddings."""


@dataclass(frozen=True)
class Workload:
    """What both sides do."""

    shape: str
    adapter: str  # full | lora
    steps: int
    batch_size: int
    learning_rate: float
    threads: int
    max_length: int = 512
    num_train: int = 1024
    num_eval: int = 200
    seed: int = 0
    lora_r: int = 16
    lora_alpha: int = 32
    task: str = "chat"
    """`chat`: GSM8K with masked prompts; `text`: books cut into blocks of max_length tokens, all of them supervised."""
    layers: tuple[int, ...] = ()
    """Blocks with an adapter; none = all of them."""


def prepare(work: Path, workload: Workload, rows: Path) -> dict[str, Any]:
    """Write the workload's folder and return the facts about its tokens; `rows`: the folder of GSM8K or Gutenberg."""
    import torch
    from machine import nano_dir
    from transformers import AutoConfig, LlamaConfig, LlamaForCausalLM

    from metier.data.batching import step_examples

    if workload.task == "chat":
        texts = [row["question"] + "\n" + row["answer"] for row in read_rows(rows / "train.jsonl")]
    else:
        texts = _books(rows / "train.parquet", BOOK_CHARACTERS)
    tokenizer = train_tokenizer(texts)
    shape = SHAPES[workload.shape]
    if shape is None:
        config = AutoConfig.from_pretrained(nano_dir())
    else:
        config = LlamaConfig(**shape, max_position_embeddings=2048, tie_word_embeddings=True)
    torch.manual_seed(workload.seed)
    model = LlamaForCausalLM(config).float()
    model.config.pad_token_id = model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(work / "model")
    tokenizer.save_pretrained(work / "model")

    rng = np.random.default_rng(workload.seed)
    arrays: dict[str, Any] = {}
    for name, file, wanted in (("train", "train", workload.num_train), ("eval", "test", workload.num_eval)):
        if workload.task == "text":
            books = _books(rows / f"{'valid' if name == 'eval' else file}.parquet", BOOK_CHARACTERS)
            arrays |= _blocks(name, books, tokenizer, workload.max_length, wanted)
            continue
        found = read_rows(rows / f"{file}.jsonl")
        chosen = [found[i] for i in rng.permutation(len(found))[:wanted]]
        arrays |= _encode(name, chosen, tokenizer, workload.max_length)
    steps = [
        step_examples(s, n=workload.num_train, batch_size=workload.batch_size, seed=workload.seed)
        for s in range(workload.steps)
    ]
    arrays["steps"] = np.stack(steps)
    np.savez(work / "data.npz", **arrays)
    if workload.adapter == "lora":
        _initial_adapter(work, workload)
    facts = {**asdict(workload), "parameters": sum(p.numel() for p in model.parameters())}
    (work / "workload.json").write_text(json.dumps(facts, indent=2))
    return facts


def examples(work: Path, split: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return (token ids, mask) of every example of a split."""
    with np.load(work / "data.npz") as data:
        ids, mask, offsets = data[f"{split}_ids"], data[f"{split}_mask"], data[f"{split}_offsets"]
        return [(ids[a:b], mask[a:b]) for a, b in pairwise(offsets)]


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def train_tokenizer(texts: list[str]) -> Any:
    """Return a byte-level BPE tokenizer trained on the texts, with the special tokens of the chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=TOKENIZER_SIZE, special_tokens=[END, PAD, OPEN, CLOSE], initial_alphabet=alphabet
        ),
    )
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=END, pad_token=PAD)


def _encode(name: str, rows: list[dict[str, str]], tokenizer: Any, max_length: int) -> dict[str, Any]:
    from metier.core.types import Conversation, Message, identify
    from metier.data.template import Encoder

    encoder = Encoder(tokenizer, max_length=max_length, chat_template="chatml")
    ids, masks = [], []
    for row in rows:
        talk = Conversation(messages=(Message("user", row["question"]), Message("assistant", row["answer"])))
        for encoded in encoder.conversation(identify(talk)):
            ids.append(np.asarray(encoded.token_ids, dtype=np.int64))
            masks.append((np.asarray(encoded.loss_mask) > 0).astype(np.int64))
    if len(ids) != len(rows):
        raise SystemExit(f"{len(rows) - len(ids)} examples were cut away; raise max_length")
    offsets = np.concatenate([[0], np.cumsum([len(x) for x in ids])])
    return {
        f"{name}_ids": np.concatenate(ids),
        f"{name}_mask": np.concatenate(masks),
        f"{name}_offsets": offsets,
    }


def _books(path: Path, characters: int) -> list[str]:
    """Return books of a Parquet file until there are so many characters."""
    import pyarrow.parquet as pq

    found: list[str] = []
    for batch in pq.ParquetFile(path).iter_batches(batch_size=4, columns=["text"]):
        found += batch.column("text").to_pylist()
        if sum(map(len, found)) > characters:
            break
    return found


def _blocks(name: str, books: list[str], tokenizer: Any, length: int, wanted: int) -> dict[str, Any]:
    """Cut books, one after another, into blocks; every token but a block's first is supervised."""
    ids = np.concatenate([np.asarray(tokenizer(book)["input_ids"], dtype=np.int64) for book in books])
    if len(ids) < wanted * length:
        raise SystemExit(f"{wanted} blocks of {length} tokens need more text than {len(ids)} tokens")
    mask = np.ones((wanted, length), dtype=np.int64)
    mask[:, 0] = 0
    return {
        f"{name}_ids": ids[: wanted * length],
        f"{name}_mask": mask.reshape(-1),
        f"{name}_offsets": np.arange(wanted + 1) * length,
    }


def lora_options(facts: dict[str, Any]) -> dict[str, Any]:
    """Return the product's options of the workload's adapter."""
    chosen = {"layers_to_transform": list(facts["layers"])} if facts["layers"] else {}
    return {"r": facts["lora_r"], "lora_alpha": facts["lora_alpha"], "target_modules": "all-linear", **chosen}


def _initial_adapter(work: Path, workload: Workload) -> None:
    from metier.core.sections import ModelSection
    from metier.models import base as bases
    from metier.models import policy as policies

    section = ModelSection(name_or_path=str(work / "model"), dtype="float32")
    base = bases.load(section, resolve=Path)
    policy = policies.build(base, "lora", lora_options(asdict(workload)), seed=workload.seed)
    policy.adapter.save(work / "adapter", str(work / "model"))


if __name__ == "__main__":
    arguments = json.loads(sys.argv[1])
    facts = prepare(Path(arguments["work"]), Workload(**arguments["workload"]), Path(arguments["rows"]))
    print(json.dumps(facts))
