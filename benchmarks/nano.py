"""What metier/nano learnt: bits per byte beside a 5-gram over the same tokens, and what that is worth for a classifier.

    export METIER_DATA=…
    python benchmarks/nano.py text --project work/nano --model pretrained --model metier/nano    # writes nano.md
    python benchmarks/nano.py banking77                                                          # nano_banking77.md

`text`: gutenberg/valid (12 books that are not in the training part) and WikiText-2's validation part, in windows of
1,024 tokens that begin every 512, each token scored once, with at least 512 tokens before it where there are as many.
The 5-gram is interpolated Kneser-Ney (Chen and Goodman 1998, one discount per order), counted on exactly the blocks
that the pre-training took, and reads the test text as one stream.

`banking77`: ten rows per class of BANKING77's train.csv, everything trained, from nano and from its random start, three
seeds; the last checkpoint is not chosen, the best on validation is. Figures on the official test.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from machine import data_dir, nano_dir, need, publish, spread, table
from recipe_runs import metier

WINDOW, STRIDE, ORDER = 1024, 512, 5
Ints = npt.NDArray[np.int64]


# ───────────────────────────────────────────────────────────────────────────── text


def gutenberg_valid() -> list[str]:
    """Return the twelve held-out books."""
    import pyarrow.parquet as pq

    found = pq.read_table(data_dir() / "gutenberg" / "valid.parquet", columns=["text"])
    return [str(text) for text in found.column("text").to_pylist()]


def wikitext_valid() -> list[str]:
    """Return WikiText-2's validation part, as it is."""
    return [(data_dir() / "wikitext2_valid" / "valid.txt").read_text(encoding="utf-8")]


def model_bits(folder: Path, texts: Sequence[str]) -> float:
    """Return bits per byte of a model directory."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
    nats, num_bytes = 0.0, 0
    with torch.no_grad():
        for text in texts:
            ids = torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"])
            num_bytes += len(text.encode())
            scored = 1  # nothing predicts the first token of a book
            for start in range(0, max(1, len(ids) - STRIDE), STRIDE):
                window = ids[start : start + WINDOW]
                logits = model(window[None], use_cache=False).logits[0, :-1].float()
                losses = torch.nn.functional.cross_entropy(logits, window[1:], reduction="none")
                nats += float(losses[scored - start - 1 :].double().sum())
                scored = start + len(window)
    return nats / math.log(2) / num_bytes


class KneserNey:
    """Interpolated Kneser-Ney over token ids; counts are kept as sorted keys of (context number, token)."""

    def __init__(self, rows: Sequence[Ints], vocabulary: int) -> None:
        self.vocabulary = vocabulary
        self.keys: list[Ints] = []  # per order: every n-gram that was seen
        stream, lengths = np.concatenate(list(rows)), [len(row) for row in rows]
        starts = np.repeat(np.cumsum([0, *lengths[:-1]]), lengths)
        room = np.arange(len(stream)) - starts  # how many tokens of its own block stand before each
        numbers = np.zeros(len(stream), dtype=np.int64)  # of the (n−1)-gram that ends before the token
        counts: list[Ints] = []
        ends: list[Ints] = []  # per order: the number of the n-gram that ends at each token, -1 = none
        for order in range(1, ORDER + 1):
            fits = room >= order - 1
            keys = numbers * vocabulary + stream
            unique, inverse, count = np.unique(keys[fits], return_inverse=True, return_counts=True)
            self.keys.append(unique)
            counts.append(count)
            end = np.full(len(stream), -1, dtype=np.int64)
            end[fits] = inverse
            ends.append(end)
            numbers = np.concatenate([[-1], end[:-1]])
            numbers[room < order] = -1
        # Below the highest order an n-gram counts in how many words it follows, not how often it comes.
        for order in range(1, ORDER):
            longer, shorter = ends[order], ends[order - 1]
            both = longer >= 0
            pairs = np.unique(np.stack([shorter[both], longer[both]]), axis=1)
            follow = np.bincount(pairs[0], minlength=len(self.keys[order - 1]))
            counts[order - 1] = np.maximum(follow, 1)  # what only opens a block has followed its beginning
        self.counts = counts
        ones, twos = ([int((c == n).sum()) for c in counts] for n in (1, 2))
        self.discounts = [one / (one + 2 * two) if one else 0.5 for one, two in zip(ones, twos, strict=True)]
        self.totals, self.kinds = [], []
        for keys, count, previous in zip(self.keys, counts, [1, *map(len, self.keys)], strict=False):
            context = keys // vocabulary
            self.totals.append(np.bincount(context, weights=count, minlength=previous))
            self.kinds.append(np.bincount(context, minlength=previous))

    def probabilities(self, stream: Ints) -> npt.NDArray[np.float64]:
        """Return P(token | the four before it) for every token of a stream."""
        found = np.full(len(stream), 1.0 / self.vocabulary)
        numbers = np.zeros(len(stream), dtype=np.int64)
        for order in range(ORDER):
            known = numbers >= 0
            at = np.where(known, numbers, 0)
            keys, discount = self.keys[order], self.discounts[order]
            wanted = at * self.vocabulary + stream
            place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
            seen = known & (keys[place] == wanted)
            total = self.totals[order][at]
            usable = known & (total > 0)
            count = np.where(seen, self.counts[order][place], 0)
            safe = np.maximum(total, 1)
            mixed = np.maximum(count - discount, 0) / safe + discount * self.kinds[order][at] / safe * found
            found = np.where(usable, mixed, found)
            end = np.where(seen, place, -1)
            numbers = np.concatenate([[-1], end[:-1]])
        return found


def seen_blocks(project: Path) -> tuple[list[Ints], int]:
    """Return the blocks of tokens that the project's pre-training took, and how many steps that were."""
    from metier.data.batching import step_examples
    from metier.data.tokens import TokenTable

    run = min((project / "runs").iterdir())
    steps = max(json.loads(line).get("step", 0) for line in (run / "events.jsonl").read_text().splitlines())
    folders = [path.parent for path in (project / "cache" / "tokens").glob("*/manifest.json")]
    tables = [TokenTable(folder, json.loads((folder / "manifest.json").read_text())) for folder in folders]
    blocks = max(tables, key=len)
    rows = [step_examples(s, n=len(blocks), batch_size=8, seed=0) for s in range(steps)]
    return [blocks[int(i)].token_ids.astype(np.int64) for i in np.concatenate(rows)], steps


def stream_bits(counted: KneserNey, folder: Path, texts: Sequence[str]) -> float:
    """Return bits per byte of the 5-gram."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    bits, num_bytes = 0.0, 0
    for text in texts:
        ids = np.array(tokenizer(text, add_special_tokens=False)["input_ids"], dtype=np.int64)
        bits -= float(np.log2(counted.probabilities(ids)[1:]).sum())
        num_bytes += len(text.encode())
    return bits / num_bytes


def text(given: argparse.Namespace) -> None:
    """Write the page of the first part."""
    nano = nano_dir()
    folders = {name: nano if name == "metier/nano" else given.project / name for name in given.model}
    sets = {"gutenberg/valid": gutenberg_valid(), "WikiText-2 valid": wikitext_valid()}
    blocks, steps = seen_blocks(given.project)
    size = json.loads((given.project / "start" / "config.json").read_text())["vocab_size"]
    num_tokens = sum(map(len, blocks))
    counted = KneserNey(blocks, size)
    rows = [
        [
            f"Kneser-Ney {ORDER}-gram",
            *(f"{stream_bits(counted, given.project / 'start', t):.3f}" for t in sets.values()),
        ]
    ]
    del counted
    rows += [[name, *(f"{model_bits(folder, t):.3f}" for t in sets.values())] for name, folder in folders.items()]
    says = (
        f"Bits per byte, lower is better. Pre-training took {num_tokens / 1e6:.1f} M tokens in {steps:,} steps; the "
        "5-gram is counted on the same. How: see the script, `benchmarks/nano.py`."
    )
    command = "python benchmarks/nano.py text --project … " + " ".join(f"--model {name}" for name in given.model)
    publish(given.out, "metier/nano: text", says, table(["model", *sets], rows), command=command)


# ───────────────────────────────────────────────────────────────────────────── BANKING77

RECIPE = """\
version: 1
name: {name}
objective: {{task: classify}}
data:
  sources:
    - {{path: few.csv, split: train, map: {{label: category}}}}
    - {{path: validation.csv, split: validation, map: {{label: category}}}}
    - {{path: test.csv, split: test, map: {{label: category}}}}
model: {{name_or_path: {model}}}
adapter: {{kind: full}}
method: {{kind: classify, pooling: mean, head_learning_rate_multiplier: 5, label_smoothing: 0.1}}
training: {{num_train_epochs: 15, batch_size: 16, learning_rate: {rate}, early_stopping_patience: 0, seed: {seed}}}
evaluation: {{baseline: false}}
"""
RATES = {"metier/nano": 1e-3, "its random start": 6e-4}
"""Each start's best of 1e-4, 3e-4, 6e-4 and 1e-3 on 1,475 other rows of train.csv (LOG.md, 2026-11-21)."""


def few(rows: Sequence[dict[str, str]], per_class: int, draw: random.Random) -> Iterator[dict[str, str]]:
    """Yield some rows of every class."""
    by_class: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        by_class.setdefault(row["category"], []).append(row)
    for found in by_class.values():
        yield from draw.sample(found, per_class)


def banking77(given: argparse.Namespace) -> None:
    """Write the page of the second part."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    nano = nano_dir()
    found: dict[str, list[float]] = {"metier/nano": [], "its random start": []}
    with tempfile.TemporaryDirectory() as place:
        project = Path(place) / "desk"
        project.mkdir()
        metier("init", "--name", "desk", folder=project)
        torch.manual_seed(0)
        shutil.copytree(nano, project / "random")
        AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(nano)).to(torch.bfloat16).save_pretrained(
            project / "random"
        )
        for seed in range(given.seeds):
            write_rows(project, seed)
            for title, model in (("metier/nano", "metier/nano"), ("its random start", "random")):
                name = f"few-{'nano' if model == 'metier/nano' else model}-{seed}"
                (project / "recipe.yaml").write_text(
                    RECIPE.format(name=name, model=model, seed=seed, rate=RATES[title])
                )
                metier("train", "recipe.yaml", folder=project)
                report = json.loads((max((project / "runs").iterdir()) / "report.json").read_text())
                figures = next(s for s in report["systems"] if s["role"] == "run")["figures"]
                found[title].append(next(f["value"] for f in figures if f["metric"] == "accuracy"))
                print(title, seed, found[title][-1], file=sys.stderr, flush=True)
    rows = [[title, spread(values, digits=1, scale=100, unit=" %")] for title, values in found.items()]
    gaps = [a - b for a, b in zip(*found.values(), strict=True)]
    rows.append(["difference", spread(gaps, digits=1, scale=100, unit=" points")])
    says = (
        "Accuracy on the official test, ten training rows per class, everything trained, 15 epochs, "
        f"{given.seeds} seeds (rows, order and head): median, with the least and the most. Each start trains at "
        "the rate that was best for it on other rows of train.csv. Target: at least 5 points."
    )
    publish(given.out, "metier/nano: BANKING77", says, table(["from", "accuracy"], rows))


def write_rows(project: Path, seed: int) -> None:
    """Write ten rows a class to train on, five others a class to choose on, and the official test."""
    source = data_dir() / "banking77"
    with (source / "train.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    chosen = list(few(rows, 15, random.Random(seed)))
    parts = {
        "few": [row for i, row in enumerate(chosen) if i % 15 < 10],
        "validation": [row for i, row in enumerate(chosen) if i % 15 >= 10],
    }
    for name, part in parts.items():
        with (project / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=["text", "category"])
            writer.writeheader()
            writer.writerows(part)
    (project / "test.csv").write_bytes((source / "test.csv").read_bytes())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["text", "banking77"])
    parser.add_argument("--project", type=Path, help="where scripts/make_nano.py and the pre-training worked")
    parser.add_argument("--model", action="append", default=[], help="folder in the project, or metier/nano")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", help="the page to write, - for the terminal")
    given = parser.parse_args()
    if given.what == "text" and not (given.project and (given.project / "runs").is_dir()):
        raise SystemExit("text needs --project: the project of the pre-training, whose runs and tokens it reads")
    needed = {"text": ("gutenberg", "wikitext2_valid"), "banking77": ("banking77",)}
    for name in needed[given.what]:
        need(data_dir() / name)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    here = Path(__file__).resolve().parent
    given.out = given.out or str(here / {"text": "nano.md", "banking77": "nano_banking77.md"}[given.what])
    {"text": text, "banking77": banking77}[given.what](given)


if __name__ == "__main__":
    main()
