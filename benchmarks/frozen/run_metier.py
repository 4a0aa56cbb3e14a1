"""Our side: the product's loop with its frozen-trunk cache, which is made within the time that is measured.

python run_metier.py WORK OUT '{"threads": 2, "micro_batch_tokens": 4096}'
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any


def run(work: Path, out: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Train and return the figures."""
    import numpy as np
    import torch
    from frozen.workload import BATCH_SIZE, LEARNING_RATE, load

    from metier.core.sections import ModelSection, Training
    from metier.data.encoded import Encoded
    from metier.models import base as bases
    from metier.models import policy as policies
    from metier.models.trunk import Trunk
    from metier.training import loop
    from metier.training.feed import Feed
    from metier.training.method import Facts, Method
    from metier.training.trunk_cache import TrunkCache

    facts = json.loads((work / "workload.json").read_text())
    torch.set_num_threads(settings["threads"])
    labels = tuple(facts["labels"])
    given = Facts(labels, "single_label")
    section = ModelSection(name_or_path=facts["model"], dtype="bfloat16")
    base = bases.load(section, resolve=Path, choices={"threads": str(settings["threads"])})
    method = Method.of("classify", {"pooling": "mean"}, given)
    policy = policies.build(base, "none", {}, head=method.head())
    with np.load(work / "head.npz") as weights, torch.no_grad():
        policy.head.output.weight.copy_(torch.from_numpy(weights["weight"]))
        policy.head.output.bias.copy_(torch.from_numpy(weights["bias"]))
    rows, targets = load(work, "train")
    items = [
        Encoded(str(i), ids.astype(np.int32), np.zeros(len(ids), np.float32), 0, 0, labels[target])
        for i, (ids, target) in enumerate(zip(rows, targets, strict=True))
    ]
    feed = Feed.of(items, pad_id=base.tokenizer.pad_token_id, facts=given)
    training = Training(
        max_steps=facts["steps"], learning_rate=LEARNING_RATE, lr_scheduler_type="constant", warmup_ratio=0,
        weight_decay=0, batch_size=BATCH_SIZE, seed=0,
    )  # fmt: skip
    tokens = settings["micro_batch_tokens"]
    plan = loop.Plan(
        steps=facts["steps"], peak_learning_rate=LEARNING_RATE, warmup_steps=0, micro_batch_tokens=tokens,
        training=training,
    )  # fmt: skip
    began = time.perf_counter()
    if settings["cache"]:
        policy.trunk = Trunk.of(policy)
        cache = TrunkCache.cached(out / "trunk", "benchmark", policy, policy.trunk, feed, budget_tokens=tokens)
        feed = replace(feed, trunk=cache)
    cached = time.perf_counter() - began
    state = loop.start(policy, plan)
    losses = [
        info.loss
        for info in loop.train(policy, method, lengths=feed.lengths, collate=feed.collate, plan=plan, state=state)
    ]
    seconds = time.perf_counter() - began
    head = policy.head.output
    np.savez(out / "head.npz", weight=head.weight.detach().numpy(), bias=head.bias.detach().numpy())
    return {"seconds": seconds, "cache_seconds": cached, "losses": losses, "settings": settings}


if __name__ == "__main__":
    print(json.dumps(run(Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3]))))
