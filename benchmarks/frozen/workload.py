"""What both sides of the frozen-base benchmark read: tokens, labels, the order of the steps, the head's first weights.

python workload.py '{"work": …, "model": …, "rows": …, "epochs": 3, …}'
"""

from __future__ import annotations

import csv
import json
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

MAX_LENGTH, BATCH_SIZE, LEARNING_RATE, SEED = 128, 32, 1e-2, 0


def prepare(work: Path, model: Path, rows: Path, *, epochs: int, num_train: int, num_eval: int) -> dict[str, Any]:
    """Write data.npz, head.npz and workload.json into the folder."""
    import torch
    from transformers import AutoConfig, AutoTokenizer

    from metier.data.batching import step_examples

    tokenizer = AutoTokenizer.from_pretrained(model)
    train, test = _rows(rows / "train.csv"), _rows(rows / "test.csv")
    names = sorted({label for _, label in train})
    rng = np.random.default_rng(SEED)
    arrays: dict[str, Any] = {}
    for name, found, wanted in (("train", train, num_train), ("eval", test, num_eval)):
        chosen = [found[i] for i in rng.permutation(len(found))[:wanted]]
        ids = [tokenizer(text, truncation=True, max_length=MAX_LENGTH)["input_ids"] for text, _ in chosen]
        arrays[f"{name}_ids"] = np.concatenate([np.asarray(one, dtype=np.int64) for one in ids])
        arrays[f"{name}_offsets"] = np.concatenate([[0], np.cumsum([len(one) for one in ids])])
        arrays[f"{name}_labels"] = np.array([names.index(label) for _, label in chosen])
    steps = epochs * -(-num_train // BATCH_SIZE)
    arrays["steps"] = np.stack([step_examples(s, n=num_train, batch_size=BATCH_SIZE, seed=SEED) for s in range(steps)])
    np.savez(work / "data.npz", **arrays)
    width = AutoConfig.from_pretrained(model).hidden_size
    drawn = torch.empty(len(names), width).normal_(0.0, 0.02, generator=torch.Generator().manual_seed(SEED))
    np.savez(work / "head.npz", weight=drawn.numpy(), bias=np.zeros(len(names), dtype=np.float32))
    facts = {
        "model": str(model),
        "labels": names,
        "epochs": epochs,
        "steps": steps,
        "num_train": num_train,
        "tokens": int(arrays["train_offsets"][-1]) * epochs,
    }
    (work / "workload.json").write_text(json.dumps(facts, indent=2))
    return facts


def load(work: Path, split: str) -> tuple[list[np.ndarray], np.ndarray]:
    """Return token ids and labels of a split."""
    with np.load(work / "data.npz") as data:
        ids, offsets, labels = data[f"{split}_ids"], data[f"{split}_offsets"], data[f"{split}_labels"]
        return [ids[a:b] for a, b in pairwise(offsets)], labels


def _rows(path: Path) -> list[tuple[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return [(row["text"], row["category"]) for row in csv.DictReader(file)]


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    work, model, rows = (Path(given.pop(name)) for name in ("work", "model", "rows"))
    print(json.dumps(prepare(work, model, rows, **given)))
