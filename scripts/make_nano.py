"""Prepare the pre-training of metier/nano: its corpus, its tokenizer and its random start.

    python scripts/make_nano.py corpus PROJECT --data DIR [--megabytes 60]
    python scripts/make_nano.py init PROJECT

`corpus` writes PROJECT/data/{pretrain,validation,chat}.jsonl from public-domain and openly licensed texts; test parts
are never read, and MedQuAD, which has no split of its own, is divided by a hash first. `init` trains a byte-level BPE
tokenizer on the corpus and writes PROJECT/start, a Llama-shaped model with random weights. The recipes under
recipes/nano then do the rest with the product's own commands.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SPECIAL = [
    "<|endoftext|>",
    "<|pad|>",
    "<|im_start|>",
    "<|im_end|>",
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
]
VOCABULARY = 8192
WIDTH, LAYERS, HEADS, KV_HEADS, INNER, CONTEXT = 384, 6, 6, 2, 1024, 1024
PASSAGE_CHARACTERS = 12_000

TEMPLATE = """\
{%- if tools %}
{{- '<|im_start|>system\\n' }}
{%- if messages[0].role == 'system' %}{{ messages[0].content + '\\n\\n' }}{% endif %}
{{- 'Tools:\\n' }}
{%- for tool in tools %}{{ tool | tojson }}{{ '\\n' }}{% endfor %}
{{- '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
{%- if not (tools and loop.first and message.role == 'system') %}
{{- '<|im_start|>' + message.role + '\\n' }}
{%- if message.reasoning %}{{ '<think>' + message.reasoning + '</think>\\n' }}{% endif %}
{{- message.content or '' }}
{%- for call in message.tool_calls or [] %}
{{- '<tool_call>' + ({'name': call.function.name, 'arguments': call.function.arguments} | tojson) + '</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""


def main() -> None:
    """Run one of the two commands."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    corpus = commands.add_parser("corpus")
    corpus.add_argument("project", type=Path)
    corpus.add_argument("--data", type=Path, required=True, help="folder with gutenberg, factbook, medquad, …")
    corpus.add_argument("--megabytes", type=float, default=60, help="size of the Gutenberg sample")
    corpus.add_argument("--seed", type=int, default=0)
    init = commands.add_parser("init")
    init.add_argument("project", type=Path)
    init.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.command == "corpus":
        write_corpus(options.project, options.data, options.megabytes, options.seed)
    else:
        write_start(options.project, options.seed)


# ───────────────────────────────────────────────────────────────────────────── corpus


def write_corpus(project: Path, data: Path, megabytes: float, seed: int) -> None:
    """Write the three files and print what each source gave."""
    rng = random.Random(seed)
    parts = {
        "gutenberg": _sample(gutenberg(data, "train"), megabytes * 1e6, rng),
        "factbook": list(factbook(data)),
        "medquad": list(medquad(data)),
        "gsm8k": list(gsm8k(data)),
        "mts_dialog": list(mts_dialog(data)),
    }
    rows = [{"text": text, "source": name} for name, texts in parts.items() for text in texts]
    rng.shuffle(rows)
    folder = project / "data"
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "pretrain.jsonl", rows)
    held_out = _sample(gutenberg(data, "valid"), 4e5, rng)
    _write(folder / "validation.jsonl", [{"text": text, "source": "gutenberg/valid"} for text in held_out])
    _write(folder / "chat.jsonl", list(chat(data)))
    for name, texts in parts.items():
        sys.stdout.write(f"{name:12} {len(texts):6} texts {sum(map(len, texts)) / 1e6:7.1f} M characters\n")


def gutenberg(data: Path, split: str) -> Iterator[str]:
    """Yield passages of the books, cut at paragraph ends."""
    import pyarrow.parquet as pq

    for batch in pq.ParquetFile(data / "gutenberg" / f"{split}.parquet").iter_batches(batch_size=8, columns=["text"]):
        for book in batch.column("text").to_pylist():
            yield from _passages(book)


def factbook(data: Path) -> Iterator[str]:
    """Yield each country's profile as headed text (public domain)."""
    for line in (data / "factbook" / "factbook.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        yield from _passages(
            (row["country"] or "") + "\n\n" + "\n\n".join(f"{s['path']}: {s['text']}" for s in row["sections"])
        )


def medquad(data: Path) -> Iterator[str]:
    """Yield questions with answers of the training part (CC BY 4.0); the test part is a tenth, by hash of the focus."""
    for line in (data / "medquad" / "medquad.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row.get("answer") and not in_medquad_test(row["focus"]):
            yield f"{row['question']}\n\n{row['answer']}"


def in_medquad_test(focus: str) -> bool:
    """Return whether a disease belongs to the held-out tenth."""
    return hashlib.sha256(focus.strip().lower().encode()).digest()[0] < 26


def gsm8k(data: Path) -> Iterator[str]:
    """Yield the training problems with their solutions (MIT)."""
    for line in (data / "gsm8k" / "train.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        yield f"{row['question']}\n{row['answer']}"


def mts_dialog(data: Path) -> Iterator[str]:
    """Yield the training dialogues with their notes (CC BY 4.0)."""
    with (data / "mts_dialog" / "MTS-Dialog-TrainingSet.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            yield f"{row['dialogue']}\n\n{row['section_header']}: {row['section_text']}"


def chat(data: Path) -> Iterator[dict[str, Any]]:
    """Yield conversations for the short sft: the alpaca demo rows and the training problems of GSM8K."""
    for row in json.loads((data / "llamafactory_demo" / "alpaca_en_demo.json").read_text(encoding="utf-8")):
        prompt = row["instruction"] + (f"\n\n{row['input']}" if row.get("input") else "")
        yield {"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": row["output"]}]}
    for line in (data / "gsm8k" / "train.jsonl").read_text(encoding="utf-8").splitlines()[:2000]:
        row = json.loads(line)
        yield {
            "messages": [
                {"role": "user", "content": row["question"]},
                {"role": "assistant", "content": row["answer"]},
            ]
        }


def _passages(text: str) -> Iterator[str]:
    lines: list[str] = []
    size = 0
    for paragraph in text.split("\n\n"):
        lines.append(paragraph.strip())
        size += len(paragraph) + 2
        if size >= PASSAGE_CHARACTERS:
            yield "\n\n".join(lines)
            lines, size = [], 0
    if size > 200:
        yield "\n\n".join(lines)


def _sample(texts: Iterator[str], characters: float, rng: random.Random) -> list[str]:
    everything = list(texts)
    rng.shuffle(everything)
    taken, size = [], 0
    for text in everything:
        if size >= characters:
            break
        taken.append(text)
        size += len(text)
    return taken


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


# ───────────────────────────────────────────────────────────────────────────── start


def write_start(project: Path, seed: int) -> None:
    """Train the tokenizer and write the random start."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    with (project / "data" / "pretrain.jsonl").open(encoding="utf-8") as file:
        tokenizer.train_from_iterator((json.loads(line)["text"] for i, line in enumerate(file) if i % 3 == 0), trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|endoftext|>",
        pad_token="<|pad|>",
        extra_special_tokens=SPECIAL[2:],
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = TEMPLATE
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=WIDTH,
            intermediate_size=INNER,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            num_key_value_heads=KV_HEADS,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=[fast.convert_tokens_to_ids(t) for t in ("<|endoftext|>", "<|im_end|>")],
            pad_token_id=fast.pad_token_id,
        )
    )
    model.save_pretrained(project / "start")
    fast.save_pretrained(project / "start")
    sys.stdout.write(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters in {project / 'start'}\n")


if __name__ == "__main__":
    main()
