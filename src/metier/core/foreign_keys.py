"""Keys of other tools that a recipe may hold by mistake: whose they are and what says the same here."""

from __future__ import annotations

FOREIGN_KEYS: dict[str, tuple[str, str]] = {
    "per_device_train_batch_size": (
        "Hugging Face Trainer",
        "training.batch_size (over all devices, accumulation included)",
    ),
    "gradient_accumulation_steps": (
        "Hugging Face Trainer",
        "training.batch_size; training.micro_batch_tokens sizes one pass",
    ),
    "num_epochs": ("Axolotl", "training.num_train_epochs"),
    "micro_batch_size": ("Axolotl", "training.batch_size; training.micro_batch_tokens sizes one pass"),
    "sequence_len": ("Axolotl", "training.max_length"),
    "sample_packing": ("Axolotl", "training.packing"),
    "base_model": ("Axolotl", "model.name_or_path"),
    "lora_r": ("Axolotl", "adapter.r"),
    "lora_target_linear": ("Axolotl", "adapter.target_modules: all-linear"),
    "cutoff_len": ("LLaMA-Factory", "training.max_length"),
    "finetuning_type": ("LLaMA-Factory", "adapter.kind"),
    "lora_rank": ("LLaMA-Factory", "adapter.r"),
    "lora_target": ("LLaMA-Factory", "adapter.target_modules"),
    "stage": ("LLaMA-Factory", "method.kind"),
    "template": ("LLaMA-Factory", "model.chat_template; the tokenizer's own template is the default"),
    "model_name_or_path": ("Hugging Face", "model.name_or_path"),
    "max_seq_length": ("TRL", "training.max_length"),
    "dataset_text_field": ("TRL", "data.sources[].map: {text: …}"),
    "eval_steps": ("Hugging Face Trainer", "evaluation.every_steps"),
    "n_epochs": ("OpenAI", "training.num_train_epochs"),
    "learning_rate_multiplier": ("OpenAI", "training.learning_rate"),
}
