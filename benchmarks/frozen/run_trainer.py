"""The rival's side: transformers' Trainer on a frozen encoder with mean pooling and a linear head.

    python run_trainer.py WORK OUT '{"profile": "tuned", "per_device": 32}'

`default` = what TrainingArguments says (float32, examples in their order, batches of 8). `tuned` = bfloat16, no
autograd in the frozen part, the step's examples grouped by length, fused AdamW, the fastest per-device batch. Dropout
is off on both sides.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from frozen.workload import BATCH_SIZE, LEARNING_RATE, load
from torch import nn
from transformers import AutoModel, AutoTokenizer, Trainer, TrainerCallback, TrainingArguments


class Classifier(nn.Module):
    """A frozen encoder, the mean of its last states over the real tokens, one linear layer."""

    def __init__(self, folder: str, head: Path, *, no_grad: bool) -> None:
        super().__init__()
        self.encoder = AutoModel.from_pretrained(folder, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
        self.encoder.requires_grad_(False)
        self.no_grad = no_grad
        with np.load(head) as weights:
            self.head = nn.Linear(weights["weight"].shape[1], weights["weight"].shape[0])
            with torch.no_grad():
                self.head.weight.copy_(torch.from_numpy(weights["weight"]))
                self.head.bias.copy_(torch.from_numpy(weights["bias"]))

    def forward(self, input_ids: Any, attention_mask: Any, labels: Any = None) -> dict[str, Any]:
        with torch.set_grad_enabled(not self.no_grad and torch.is_grad_enabled()):
            hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask.unsqueeze(-1).to(torch.float32)
        pooled = (hidden.float() * mask).sum(1) / mask.sum(1)
        logits = self.head(pooled).float()
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return {"loss": loss, "logits": logits}


def run(work: Path, out: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Train and return the figures."""
    facts = json.loads((work / "workload.json").read_text())
    torch.set_num_threads(settings["threads"])
    tuned, per_device = settings["profile"] == "tuned", settings["per_device"]
    model = Classifier(facts["model"], work / "head.npz", no_grad=tuned)
    tokenizer = AutoTokenizer.from_pretrained(facts["model"])
    ids, labels = load(work, "train")
    with np.load(work / "data.npz") as data:
        steps = data["steps"][: settings.get("steps")]
    order = [i for step in steps for i in (sorted(step, key=lambda i: -len(ids[i])) if tuned else step)]
    rows = [{"input_ids": ids[i].tolist(), "labels": int(labels[i])} for i in order]
    losses: list[float] = []

    class Losses(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            if logs and "loss" in logs:
                losses.append(float(logs["loss"]))

    arguments = TrainingArguments(
        output_dir=str(out / "trainer"),
        max_steps=len(steps),
        per_device_train_batch_size=per_device,
        gradient_accumulation_steps=BATCH_SIZE // per_device,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        train_sampling_strategy="sequential",
        remove_unused_columns=False,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        **({"bf16": True, "optim": "adamw_torch_fused"} if tuned else {}),
    )

    def collate(examples: list[dict[str, Any]]) -> Any:
        made = tokenizer.pad([{"input_ids": e["input_ids"]} for e in examples], return_tensors="pt")
        return {**made, "labels": torch.tensor([e["labels"] for e in examples])}

    trainer = Trainer(model=model, args=arguments, train_dataset=rows, data_collator=collate, callbacks=[Losses()])
    began = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - began
    np.savez(out / "head.npz", weight=model.head.weight.detach().numpy(), bias=model.head.bias.detach().numpy())
    versions = {"transformers": transformers.__version__, "torch": torch.__version__}
    return {"seconds": seconds, "losses": losses, "settings": settings, "versions": versions}


if __name__ == "__main__":
    print(json.dumps(run(Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3]))))
