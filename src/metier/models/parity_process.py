"""The fresh process of a parity certificate: `python -I parity_process.py request.json result.json`.

It loads an export as any user of transformers would, and never imports Metier: what it measures is what others get.
Everything is computed in float32, so that only the weights speak. The request names the form, the directory, the
probe rows and the greedy continuations of the original; the result holds the same figures of the export.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import sys
from pathlib import Path
from typing import Any


def load(request: dict[str, Any]) -> Any:
    """Return the exported model in float32 on the CPU, through the public loaders alone."""
    import transformers

    auto = transformers.AutoModelForSequenceClassification if request["head"] else transformers.AutoModelForCausalLM
    if request["form"] == "hf":
        return auto.from_pretrained(request["dir"], dtype="float32", local_files_only=True).eval()
    import peft

    base = auto.from_pretrained(request["base"], dtype="float32", local_files_only=True)
    return peft.PeftModel.from_pretrained(base, request["dir"], is_trainable=False).float().eval()


def logprobs(model: Any, row: list[int]) -> tuple[list[float], list[float]]:
    """Return log p of each token after the first, and how far each lies below the likeliest one, in nats."""
    import torch

    logits_TV = model(input_ids=torch.tensor([row])).logits[0, :-1].float()
    targets_T1 = torch.tensor(row[1:])[:, None]
    logprobs_TV = logits_TV.log_softmax(-1)
    chosen_T = logprobs_TV.gather(-1, targets_T1)[:, 0]
    return chosen_T.tolist(), (logprobs_TV.max(-1).values - chosen_T).tolist()


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """Return the export's figures on the probe rows."""
    import torch

    model = load(request)
    result: dict[str, Any] = {"rows": [], "greedy": [], "gaps": []}
    with torch.no_grad():
        if request["head"]:
            result["rows"] = [model(input_ids=torch.tensor([row])).logits[0].tolist() for row in request["rows"]]
        else:
            result["rows"] = [logprobs(model, row)[0] for row in request["rows"]]
            for prompt, continuation in request["greedy"]:
                out = model.generate(
                    input_ids=torch.tensor([prompt]),
                    attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
                    do_sample=False,
                    max_new_tokens=request["greedy_tokens"],
                )
                result["greedy"].append(out[0, len(prompt) :].tolist())
                result["gaps"].append(max(logprobs(model, [*prompt, *continuation])[1][len(prompt) - 1 :]))
    packages = ["torch", "transformers", "safetensors", *(["peft"] if request["form"] == "peft" else [])]
    result["versions"] = {"python": platform.python_version()}
    result["versions"].update({name: importlib.metadata.version(name) for name in packages})
    result["metier_imported"] = "metier" in sys.modules
    return result


if __name__ == "__main__":
    asked = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    Path(sys.argv[2]).write_text(json.dumps(measure(asked)), encoding="utf-8")
