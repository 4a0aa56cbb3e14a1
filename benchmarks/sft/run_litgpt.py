"""LitGPT's side of W2: its GPT and the loop of its `pretrain`, on the dumped blocks. Runs in an environment of its own.

    python run_litgpt.py WORK OUT '{"per_device": 2, "compile": true}'

As in `litgpt pretrain`: Fabric, `torch.compile`, bfloat16 mixed precision, its chunked cross-entropy, fused AdamW. Its
data module is replaced by the dumped blocks, so that every contestant takes the same ones in each step, and its
schedule by a constant rate. Weights come from the workload's Hugging Face directory and go back to one for the judge.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

BEGAN = time.perf_counter()


def run(work: Path, out: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Train and return the figures."""
    import lightning as L
    import numpy as np
    import torch
    from litgpt.config import Config
    from litgpt.model import GPT
    from litgpt.scripts.convert_hf_checkpoint import copy_weights_hf_llama
    from litgpt.scripts.convert_lit_checkpoint import copy_weights_llama
    from litgpt.utils import chunked_cross_entropy
    from safetensors.torch import load_file, save_file

    facts = json.loads((work / "workload.json").read_text())
    torch.set_num_threads(facts["threads"])
    shape = json.loads((work / "model" / "config.json").read_text())
    config = Config(
        name="workload",
        block_size=facts["max_length"],
        vocab_size=shape["vocab_size"],
        padded_vocab_size=shape["vocab_size"],
        n_layer=shape["num_hidden_layers"],
        n_head=shape["num_attention_heads"],
        n_query_groups=shape["num_key_value_heads"],
        n_embd=shape["hidden_size"],
        rotary_percentage=1.0,
        parallel_residual=False,
        bias=False,
        norm_class_name="RMSNorm",
        norm_eps=shape["rms_norm_eps"],
        mlp_class_name="LLaMAMLP",
        intermediate_size=shape["intermediate_size"],
        rope_base=10000,
    )
    fabric = L.Fabric(devices=1, accelerator="cpu", precision="bf16-mixed")
    model = GPT(config)
    weights = load_file(work / "model" / "model.safetensors")
    weights.setdefault("lm_head.weight", weights["model.embed_tokens.weight"])
    lit: dict[str, torch.Tensor] = {}
    copy_weights_hf_llama(config, {}, lit, weights)
    model.load_state_dict(lit)
    model.lm_head.weight = model.transformer.wte.weight  # tied, as in every other contestant
    plain = model
    if settings["compile"]:
        model = torch.compile(model)
    model = fabric.setup(model)
    optimizer = torch.optim.AdamW(
        plain.parameters(), lr=facts["learning_rate"], weight_decay=0.0, betas=(0.9, 0.999), fused=True
    )
    optimizer = fabric.setup_optimizers(optimizer)
    blocks, steps = _blocks(work)
    per_device = settings["per_device"]
    ready = time.perf_counter()
    losses, ends = [], []
    for step in steps[: settings.get("steps")]:
        parts = [step[i : i + per_device] for i in range(0, len(step), per_device)]
        total = 0.0
        for number, part in enumerate(parts, start=1):
            ids = torch.from_numpy(np.stack([blocks[i] for i in part]))
            with fabric.no_backward_sync(model, enabled=number < len(parts)):
                logits = model(ids[:, :-1].contiguous())
                loss = chunked_cross_entropy(logits, ids[:, 1:].contiguous())
                fabric.backward(loss * (len(part) / len(step)))
            total += loss.item() * len(part) / len(step)
        fabric.clip_gradients(model, optimizer, max_norm=1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total)
        ends.append(time.perf_counter())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    back: dict[str, torch.Tensor] = {}
    copy_weights_llama(config, back, plain.state_dict(), untie_weights=True)
    save_file({name: tensor.contiguous().clone() for name, tensor in back.items()}, out / "model.safetensors")
    (out / "config.json").write_text(json.dumps(shape))
    return {
        "losses": losses,
        "step_seconds": np.diff([ready, *ends]).tolist(),
        "startup_seconds": ready - BEGAN,
        "peak_bytes": peak * 1024,
        "slots": sum(len(blocks[i]) for step in steps for i in step),
        "settings": settings,
        "versions": {"litgpt": "0.5.13", "lightning": L.__version__, "torch": torch.__version__},
    }


def _blocks(work: Path) -> tuple[list[Any], Any]:
    import numpy as np

    with np.load(work / "data.npz") as data:
        ids, offsets, steps = data["train_ids"], data["train_offsets"], data["steps"]
    return [ids[a:b] for a, b in pairwise(offsets)], steps


if __name__ == "__main__":
    print(json.dumps(run(Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3]))))
