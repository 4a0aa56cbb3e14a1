"""The sections of a recipe: their keys, defaults, units and limits.

Leaves are spelled as in Hugging Face, TRL and PEFT where those have one. `adapter`, `method` and each step are plain
data with a `kind`; actions resolve them with the catalog, so that this file names no upper floor.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

Auto = Literal["auto"]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
Task = Literal["chat", "classify", "summarize", "translate", "extract", "generate", "continue"]


def key(default: Any, description: str, *, execution: bool = False, unit: str = "", **limits: Any) -> Any:
    """Return a recipe field: its default, what it does, its unit and limits, and whether it is an execution key."""
    extra: Any = {"semantic": not execution, **({"unit": unit} if unit else {})}
    factory = callable(default)
    return Field(
        **({"default_factory": default} if factory else {"default": default}),
        description=description,
        json_schema_extra=extra,
        **limits,
    )


class Section(BaseModel):
    """Base of the recipe's sections: unknown keys are errors, values do not change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class Kind(BaseModel):
    """A section whose keys belong to a plug-in: `{kind: lora, r: 16}`."""

    model_config = ConfigDict(extra="allow", frozen=True)
    kind: str = Field(description="Name of the plug-in: the name of its file.")

    @property
    def options(self) -> dict[str, Any]:
        """The plug-in's own keys, without `kind`."""
        return dict(self.model_extra or {})


def _kind(value: Any) -> Any:
    return {"kind": value} if isinstance(value, str) else value


KindSection = Annotated[Kind, BeforeValidator(_kind)]


class Objective(Section):
    """What the specialist is for, and the figures that say whether it became one."""

    task: Task = key("chat", "What the model will do; decides the default prompt and metrics.")
    description: str = key("", "One sentence for a reader of the report.")
    targets: dict[str, str] = key(
        dict,
        "Figure → condition, such as `accuracy: '>= 0.92'`; `gain_over_base.` compares. Frozen before training.",
    )

    @field_validator("targets")
    @classmethod
    def _conditions(cls, value: dict[str, str]) -> dict[str, str]:
        for name, condition in value.items():
            if not re.fullmatch(r"\s*(>=|<=|>|<)\s*-?\d+(\.\d+)?(e-?\d+)?\s*", str(condition)):
                raise ValueError(f"target `{name}` is not a condition such as '>= 0.92'")
        return value


class Permission(Section):
    """What a source may be used for. Nothing stated means: unknown."""

    license: str | None = key(None, "SPDX identifier of the data's license.")
    basis: str | None = key(None, "Legal basis (GDPR art. 6), such as `consent` or `legitimate-interest`.")
    consent_id: str | None = key(None, "Identifier of the consent record.")
    consent_expires: str | None = key(None, "Last day of the consent, YYYY-MM-DD.")
    consent_withdrawn: str | None = key(None, "Day from which the consent is withdrawn, YYYY-MM-DD.")
    purpose: tuple[str, ...] = key((), "What the data may be used for, such as `training`, `evaluation`.")
    retention: str | None = key(None, "Last day the data may be kept, YYYY-MM-DD.")
    personal_data: bool | None = key(None, "Whether it holds personal data.")
    subject_key: str | None = key(None, "Column that names the person a row is about.")


class Source(Section):
    """One file, folder or hub id with rows."""

    path: str = key(
        ..., "File, folder, glob or `hf:org/name`; relative to the project; `${NAME}` is an environment variable."
    )
    split: Literal["train", "validation", "test", "auto"] = key(
        "auto", "`auto` is divided by data.split; a given split is never altered, its leaks are counted."
    )
    format: str = key("auto", "Name of a format, or `auto`: detected from the rows, with the reason.")
    map: dict[str, str] = key(dict, "Canonical column → the file's column, such as `{text: body, label: category}`.")
    permission: Permission | None = key(None, "License, legal basis, consent and purpose of this source.")
    limit: Count | None = key(None, "Read only the first so many rows.", unit="rows")


class Prompt(Section):
    """How a labelled or prompt/completion row becomes a conversation. `{column}` is filled from the row.

    The same question is asked in training, evaluation, `metier predict` and `metier chat`.
    """

    system: str | None = key(None, "System message; not for methods with a task head, which read the text alone.")
    user: str | None = key(
        None, "User message, such as `Summarize for a physician:\\n{dialogue}`; names at least one column."
    )


class SplitOptions(Section):
    """How rows without a given split are divided."""

    validation: float = key(0.1, "Share of the rows for validation.", ge=0, lt=1)
    test: float = key(0.1, "Share of the rows for test.", ge=0, lt=1)
    group_by: str | None = key(None, "Column whose equal values stay on one side, such as a patient id.")
    time_by: str | None = key(
        None,
        "Column with a date, time or number: train lies before validation, and that before test. Then `stratify` and "
        "`seed` have no say, and rows without a time go to quarantine.",
    )
    stratify: bool = key(True, "Keep the shares of the labels equal in each split, where there are labels.")
    near_duplicates: float = key(
        0.85, "Estimated Jaccard similarity from which two texts count as near duplicates; 1 = exact only.", gt=0, le=1
    )
    seed: int = key(0, "Seed of the division.", ge=0)


class Canaries(Section):
    """Invented secrets among the training rows; how well the model knows them afterwards stands in the report."""

    num: int = key(0, "How many secrets, each a sentence with nine random digits; 0 plants none.", ge=0, le=1000)
    repeats: tuple[Count, ...] = key(
        (1, 4, 16), "How often a secret stands in train; the secrets take these numbers in turn.", min_length=1
    )


class Data(Section):
    """Where the rows come from and how they are prepared."""

    dataset: str | None = key(None, "An existing dataset version (`data:support@v3`) instead of sources.")
    sources: tuple[Source, ...] = key((), "Files, folders or hub ids with rows.")
    prompt: Prompt = key(Prompt, "How a row becomes a conversation; stored in the model and reused when serving.")
    steps: tuple[KindSection, ...] = key((), "Preparation steps in order; each is counted and reported.")
    split: SplitOptions = key(SplitOptions, "How rows are divided into train, validation and test.")
    canaries: Canaries = key(Canaries, "Planted rows, to measure what the model learns by heart.")
    max_quarantine: float = key(0.05, "Share of unusable rows above which preparation fails (E310).", ge=0, le=1)


class ModelSection(Section):
    """The base model a run starts from."""

    name_or_path: str = key("metier/nano", "Local directory, hub id, or `metier/nano` (ships with the package).")
    revision: str | None = key(None, "Commit of a hub model.")
    dtype: Literal["auto", "float32", "bfloat16"] = key(
        "auto", "Precision of the computation; `auto` probes the machine."
    )
    device: str = key("auto", "`auto`, `cpu`, `cuda`, `mps` or `xpu`.", execution=True)
    chat_template: str | None = key(
        None, "Jinja file, or the built-in `chatml` or `plain`, for a base without a chat template of its own."
    )


class Training(Section):
    """The optimiser steps."""

    num_train_epochs: float = key(3.0, "Passes over the training split.", gt=0)
    max_steps: Count | None = key(None, "At most so many optimiser steps, where num_train_epochs would take more.")
    optimizer: Literal["adamw", "muon"] = key(
        "adamw",
        "`muon` steps the matrices between hidden states by Muon, all else by AdamW, with the same learning rate: for "
        "a base that is trained from a random start.",
    )
    learning_rate: Positive | Auto = key("auto", "Peak learning rate; `auto` follows method, adapter and model size.")
    lr_scheduler_type: Literal["cosine", "linear", "constant", "wsd"] = key(
        "cosine", "Shape after warm-up; `wsd` is constant with a linear decay over the last fifth."
    )
    warmup_ratio: float = key(0.05, "Share of the steps in which the learning rate rises.", ge=0, le=1)
    weight_decay: float = key(0.01, "Weight decay of matrices, decoupled; vectors have none.", ge=0)
    adam_beta1: float = key(0.9, "AdamW first moment.", ge=0, lt=1)
    adam_beta2: float = key(0.999, "AdamW second moment.", ge=0, lt=1)
    adam_epsilon: float = key(1e-8, "AdamW epsilon.", gt=0)
    max_grad_norm: float = key(1.0, "Gradient norm is clipped to this; 0 = never.", ge=0)
    batch_size: int = key(16, "Examples (cpt: blocks of max_length tokens) per optimiser step, over all devices.", ge=1)
    micro_batch_tokens: Count | Auto = key(
        "auto", "Token positions in one forward pass.", execution=True, unit="tokens"
    )
    max_length: int = key(1024, "Cap on the tokens of an example.", ge=2, unit="tokens")
    truncation: Literal["error", "left", "right", "drop"] = key(
        "right",
        "What happens to an example over max_length: cut at the `left` or `right`, `drop`, or `error`. Always counted.",
    )
    packing: bool = key(
        True,
        "Several short examples share one row, kept apart by their segments (no example sees another).",
        execution=True,
    )
    cache_frozen: bool = key(
        True,
        "Where the lower part of the model is frozen, compute it once per example and keep the result on disk, if the "
        "run passes over its rows more than once and the disk has room.",
        execution=True,
    )
    torch_compile: bool | Auto = key(
        "auto",
        "Compile the model's blocks (needs a C++ compiler); `auto`: where the training is long enough and a trial at "
        "its start shows that it pays.",
        execution=True,
    )
    early_stopping_patience: int = key(3, "Evaluations without improvement before the run stops; 0 = never.", ge=0)
    save_steps: Count | Auto = key("auto", "Steps between checkpoints; `auto`: at each evaluation.", execution=True)
    save_total_limit: int = key(2, "Checkpoints kept besides the best.", execution=True, ge=1)
    num_threads: Count | Auto = key("auto", "CPU threads; `auto` probes the machine.", execution=True)
    seed: int = key(0, "Seed of order, initialisation and dropout.", ge=0)


class Evaluation(Section):
    """What is measured, against the untouched base."""

    metrics: tuple[str, ...] | Auto = key("auto", "Names of metrics; `auto`: those of the task.")
    baseline: bool = key(True, "Measure the untouched base on the same rows.")
    slices: tuple[str, ...] = key((), "Columns by which the deciding figure is broken down.")
    every_steps: Count | Auto = key("auto", "Steps between evaluations on validation; `auto`: about ten per run.")
    max_new_tokens: int = key(128, "Cap on a generated completion.", ge=1, unit="tokens")
    max_examples: Count | None = key(None, "Score generation on at most so many test rows (a seeded sample).")
    bootstrap_samples: int = key(2000, "Resamples of the paired bootstrap.", ge=100)
    confidence: float = key(0.95, "Level of the intervals.", gt=0.5, lt=1)


class Gates(Section):
    """Conditions that stop promotion. A recipe can only tighten the minimum in metier.yaml."""

    parity: Literal["required", "optional"] = key("required", "An export must carry a parity certificate.")
    permission: Literal["required", "optional"] = key("optional", "Sources without a stated permission are refused.")
