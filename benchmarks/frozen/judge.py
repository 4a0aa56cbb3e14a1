"""The neutral evaluator of the frozen-base benchmark: plain transformers in float32 with a saved head.

    python judge.py WORK HEAD.npz

Prints {"loss": mean cross-entropy on the evaluation rows in nats, "accuracy": share of them that is right}.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from frozen.run_trainer import Classifier
from frozen.workload import load


def judge(work: Path, head: Path) -> dict[str, float]:
    """Return loss and accuracy."""
    facts = json.loads((work / "workload.json").read_text())
    model = Classifier(facts["model"], head, no_grad=True).eval()
    loss, right = 0.0, 0
    rows, labels = load(work, "eval")
    with torch.no_grad():
        for ids, label in zip(rows, labels.tolist(), strict=True):
            tokens = torch.from_numpy(ids)[None]
            out = model(tokens, torch.ones_like(tokens), torch.tensor([label]))
            loss += float(out["loss"])
            right += int(out["logits"].argmax()) == label
    return {"loss": loss / len(rows), "accuracy": right / len(rows)}


if __name__ == "__main__":
    print(json.dumps(judge(Path(sys.argv[1]), Path(sys.argv[2]))))
