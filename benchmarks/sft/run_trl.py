"""The rival's side of W1: TRL's SFTTrainer on the dumped examples. Runs in the environment that holds TRL.

    python run_trl.py WORK OUT '{"profile": "tuned", "per_device": 8}'

Profiles: `default` = what SFTConfig says when nobody touches it (gradient checkpointing, batches of 8, examples of a
step in their order). `tuned` = bfloat16, no gradient checkpointing, the step's examples grouped by length, the fastest
per-device batch size, fused AdamW; for LoRA the frozen base is held in bfloat16 as ours is. Both see the same
examples per optimiser step, constant learning rate, clipping at 1, no weight decay, no dropout.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

BEGAN = time.perf_counter()


def run(work: Path, out: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Train and return the figures."""
    import numpy as np
    import torch
    import transformers
    import trl
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

    facts = json.loads((work / "workload.json").read_text())
    torch.set_num_threads(facts["threads"])
    tuned = settings["profile"] == "tuned"
    lora = facts["adapter"] == "lora"
    dtype = torch.bfloat16 if tuned and lora else torch.float32
    model = AutoModelForCausalLM.from_pretrained(work / "model", dtype=dtype)
    if lora:
        import peft

        model = peft.PeftModel.from_pretrained(model, work / "adapter", is_trainable=True)
    tokenizer = AutoTokenizer.from_pretrained(work / "model")

    ends: list[float] = []
    losses: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            ends.append(time.perf_counter())

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            if logs and "loss" in logs:
                losses.append(float(logs["loss"]))

    per_device = settings["per_device"]
    config = trl.SFTConfig(
        output_dir=str(out / "trainer"),
        max_steps=facts["steps"],
        per_device_train_batch_size=per_device,
        gradient_accumulation_steps=facts["batch_size"] // per_device,
        learning_rate=facts["learning_rate"],
        lr_scheduler_type="constant",
        weight_decay=0.0,
        max_grad_norm=1.0,
        max_length=None,
        train_sampling_strategy="sequential",
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        seed=facts["seed"],
        **({"gradient_checkpointing": False, "bf16": True, "optim": "adamw_torch_fused"} if tuned else {}),
    )
    dataset, slots = _dataset(work, per_device, by_length=tuned)
    trainer = trl.SFTTrainer(
        model=model, args=config, train_dataset=dataset, processing_class=tokenizer, callbacks=[Clock()]
    )
    ready = time.perf_counter()
    trainer.train()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    trainer.model.save_pretrained(out)
    return {
        "losses": losses,
        "step_seconds": np.diff([ready, *ends]).tolist(),
        "startup_seconds": ready - BEGAN,
        "peak_bytes": peak * (1 if sys.platform == "darwin" else 1024),
        "slots": slots,
        "settings": {**settings, "optimizer": str(config.optim), "checkpointing": config.gradient_checkpointing},
        "versions": {"trl": trl.__version__, "transformers": transformers.__version__, "torch": torch.__version__},
    }


def _dataset(work: Path, per_device: int, *, by_length: bool) -> tuple[Any, int]:
    """Return the examples in the order of the steps, and the positions computed, padding included."""
    import numpy as np
    from datasets import Dataset
    from sft.workload import examples

    rows = examples(work, "train")
    with np.load(work / "data.npz") as data:
        steps = data["steps"]
    order: list[int] = []
    slots = 0
    for step in steps:
        chosen = sorted(step, key=lambda i: -len(rows[i][0])) if by_length else list(step)
        order += chosen
        for at in range(0, len(chosen), per_device):
            part = [len(rows[i][0]) for i in chosen[at : at + per_device]]
            slots += max(part) * len(part)
    ids = [rows[i][0].tolist() for i in order]
    labels = [np.where(rows[i][1] > 0, rows[i][0], -100).tolist() for i in order]
    return Dataset.from_dict({"input_ids": ids, "labels": labels}), slots


if __name__ == "__main__":
    print(json.dumps(run(Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3]))))
