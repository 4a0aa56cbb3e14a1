"""The neutral evaluator of W1: plain transformers and PEFT in float32, neither side's code.

    python judge.py WORK WEIGHTS

Prints {"loss": mean negative log-likelihood of the supervised evaluation tokens, in nats}.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def judge(work: Path, weights: Path) -> float:
    """Return the evaluation loss of saved weights: a model directory or an adapter directory."""
    import torch
    from sft.workload import examples
    from transformers import AutoModelForCausalLM

    if (weights / "adapter_config.json").exists():
        import peft

        base = AutoModelForCausalLM.from_pretrained(work / "model", dtype=torch.float32)
        model = peft.PeftModel.from_pretrained(base, weights)
    else:
        model = AutoModelForCausalLM.from_pretrained(weights, dtype=torch.float32)
    model.eval()
    total, count = 0.0, 0
    with torch.no_grad():
        for ids, mask in examples(work, "eval"):
            tokens = torch.from_numpy(ids)[None]
            logits = model(input_ids=tokens).logits[0, :-1].float()
            chosen = torch.from_numpy(mask[1:]) > 0
            loss = torch.nn.functional.cross_entropy(logits, tokens[0, 1:], reduction="none")
            total += float(loss[chosen].sum())
            count += int(chosen.sum())
    return total / count


if __name__ == "__main__":
    print(json.dumps({"loss": judge(Path(sys.argv[1]), Path(sys.argv[2]))}))
