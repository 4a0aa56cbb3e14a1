"""The recipe: one YAML file with the sections of the journey, in its order.

    version · name · objective · data · model · adapter · method · training · evaluation · gates

Leaves are spelled as in Hugging Face, TRL and PEFT where those have one. The command line wins over the file, the file
over the default; the environment is read only where a path names it (`${NAME}`). Each key is *semantic* (it changes the
result) or *execution* (only how it is computed); a resume accepts changes of the latter. `adapter`, `method` and each
step are plain data with a `kind`; actions resolve them with the catalog, so that this file names no upper floor.
"""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, ValidationError, field_validator

from metier.core.catalog import type_of
from metier.core.errors import ConfigError
from metier.core.yamlmarks import NOT_YAML, Marked, load_marked, load_value

SCHEMA_VERSION = 1
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


# ───────────────────────────────────────────────────────────────────────────── sections


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


class Recipe(Section):
    """The complete settings of a run. `Recipe.read` is the way in."""

    version: int = key(SCHEMA_VERSION, "Version of the recipe's schema.")
    name: str = key(
        ..., "Short name; part of the run's and the dataset's directory.", pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$"
    )
    objective: Objective = key(Objective, "What the specialist is for.")
    data: Data = key(Data, "Where the rows come from.")
    model: ModelSection = key(ModelSection, "The base model.")
    adapter: KindSection = key(lambda: Kind(kind="lora"), "Which weights train: `metier catalog ls adapters`.")
    method: KindSection = key(lambda: Kind(kind="sft"), "How they train: `metier catalog ls methods`.")
    training: Training = key(Training, "The optimiser steps.")
    evaluation: Evaluation = key(Evaluation, "What is measured.")
    gates: Gates = key(Gates, "What stops promotion.")

    _marks: dict[str, int] = PrivateAttr(default_factory=dict)
    _file: str = PrivateAttr(default="")

    @classmethod
    def read(
        cls,
        path: Path,
        overrides: Iterable[str] = (),
        *,
        origin: tuple[str, Mapping[str, int]] | None = None,
    ) -> Recipe:
        """Read a recipe file and apply `section.key=value` overrides.

        Args:
            origin: as in `parse`.

        Raises:
            ConfigError: E201 unknown key, E202 wrong value, E203 no such file, E204 not YAML, E205 a key given twice,
                E206 a version this Metier does not know, E207 an override that is not `key=value`.
        """
        try:
            text = path.read_text(encoding="utf-8-sig")
        except FileNotFoundError:
            raise ConfigError(203, "There is no such recipe", place=str(path), fix="metier init") from None
        except (UnicodeDecodeError, IsADirectoryError) as error:
            raise ConfigError(
                204,
                "The recipe is not a UTF-8 text file",
                place=str(path),
                received=str(error),
                fix="save it as UTF-8 text, or name another file",
            ) from None
        except OSError as error:
            raise ConfigError(
                204,
                f"The recipe cannot be read: {error.strerror}",
                place=str(path),
                fix="change its permissions, or name another file",
            ) from None
        return cls.parse(text, file=path.name, overrides=overrides, origin=origin)

    @classmethod
    def parse(
        cls,
        text: str,
        *,
        file: str = "recipe.yaml",
        overrides: Iterable[str] = (),
        origin: tuple[str, Mapping[str, int]] | None = None,
    ) -> Recipe:
        """Read a recipe from text; `read` documents the errors.

        Args:
            file: what errors call the text.
            origin: the `file` and `lines` of the recipe that this text was written from, where it is a copy: errors
                about its keys then name those, since that is the file which somebody can correct.
        """
        marked = load_marked(text, file)
        values = _unshared(_migrate(marked.value, file))
        file, lines = origin or (file, marked.lines)
        marks = dict(lines)
        for override in overrides:
            _override(values, marks, override)
        return cls.build(values, marks=marks, file=file)

    @classmethod
    def build(cls, values: Mapping[str, Any], *, marks: Mapping[str, int] | None = None, file: str = "") -> Recipe:
        """Return a recipe from plain data, with line marks for its errors."""
        try:
            recipe = cls.model_validate(values)
        except ValidationError as error:
            raise _explain(error, marks or {}, file) from None
        recipe._marks.update(marks or {})
        recipe._file = file
        return recipe

    @property
    def file(self) -> str:
        """Name of the file it was read from; empty when it was made from plain data."""
        return self._file

    @property
    def lines(self) -> dict[str, int]:
        """The line of every dotted key that was written in that file."""
        return dict(self._marks)

    def place(self, dotted: str) -> str:
        """Return `recipe.yaml:14` for a key, or the file's name when the key was not written there."""
        line = self._marks.get(dotted)
        return f"{self._file}:{line}" if line else self._file

    def with_values(self, changes: Mapping[str, Any]) -> Recipe:
        """Return a copy with dotted keys set, validated like the original."""
        values = self.to_data()
        for dotted, value in changes.items():
            _assign(values, dotted, value)
        return Recipe.build(values, marks=self._marks, file=self._file)

    def to_data(self) -> dict[str, Any]:
        """Return every key with its value, defaults included, as plain data."""
        return self.model_dump(mode="json")

    def to_yaml(self) -> str:
        """Return the resolved recipe as YAML."""
        return yaml.safe_dump(self.to_data(), sort_keys=False, allow_unicode=True, width=110)


@dataclass(frozen=True, slots=True)
class Change:
    """One key that differs between two recipes."""

    key: str
    old: Any
    new: Any
    semantic: bool


def differences(old: Recipe, new: Recipe) -> list[Change]:
    """Return the keys in which two recipes differ; plug-in keys are always semantic."""
    before, after = _leaves(old.to_data()), _leaves(new.to_data())
    execution = {path for path, info in describe().items() if not info["semantic"]}
    return [
        Change(path, before.get(path), after.get(path), path not in execution)
        for path in sorted(before.keys() | after.keys())
        if before.get(path) != after.get(path)
    ]


def semantic_values(recipe: Recipe) -> dict[str, Any]:
    """Return the name and the semantic keys that are not at their default: what all starts of a run must share.

    A default is left out so that a key which a later Metier adds does not make the runs of an older one look changed.
    """
    changes = differences(Recipe.build({"name": recipe.name}), recipe)
    return {"name": recipe.name, **{c.key: c.new for c in changes if c.semantic}}


def describe() -> dict[str, dict[str, Any]]:
    """Return every dotted key with description, default, unit, `semantic` and type: for docs, forms and tests."""
    found: dict[str, dict[str, Any]] = {}

    def walk(model: type[BaseModel], prefix: str) -> None:
        for name, field in model.model_fields.items():
            inner = _section_type(field.annotation)
            path = f"{prefix}{name}"
            extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
            if inner is not None:
                walk(inner, f"{path}[]." if "tuple" in str(field.annotation) else f"{path}.")
            else:
                found[path] = {
                    "description": field.description or "",
                    "default": None if field.is_required() else field.get_default(call_default_factory=True),
                    "required": field.is_required(),
                    "type": _types(model)[name],
                    "semantic": bool(extra.get("semantic", True)),
                    "unit": str(extra.get("unit", "")),
                }

    walk(Recipe, "")
    return found


# ───────────────────────────────────────────────────────────────────────────── reading


def _migrate(value: Any, file: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(
            204,
            "The recipe is not a mapping of sections",
            place=file,
            received=type(value).__name__,
            fix="write it as `section:` lines; docs/recipe.md shows every section",
        )
    version = value.get("version", SCHEMA_VERSION)
    if version != SCHEMA_VERSION:
        raise ConfigError(
            206,
            f"The recipe has version {version!r}",
            place=file,
            expected=f"version: {SCHEMA_VERSION}",
            fix="use the Metier release that wrote it, or set the version after reading CHANGELOG.md",
        )
    return value


def _unshared(value: Any) -> Any:
    """Return plain data without YAML's anchors: an override of one place must not change what shares one with it."""
    if isinstance(value, dict):
        return {key: _unshared(child) for key, child in value.items()}
    return [_unshared(child) for child in value] if isinstance(value, list) else value


def _override(values: dict[str, Any], marks: dict[str, int], override: str) -> None:
    dotted, equals, raw = override.partition("=")
    if not equals or not dotted:
        raise ConfigError(
            207,
            "An override must be `section.key=value`",
            received=override,
            fix="such as training.num_train_epochs=2; quote it where the value holds spaces",
        )
    name = dotted.strip()
    _assign(values, name, _written(name, raw))
    # What the command line says is not what stands in the file, nor is anything below it.
    for key in [k for k in marks if k == name or k.startswith(f"{name}.")]:
        del marks[key]


def _written(dotted: str, raw: str) -> Any:
    """Return the value that an override writes: YAML, but where the key is text, the text as it stands or in quotes."""
    *parents, _ = _parts(dotted)
    kind = "text" if _type(".".join(parents)) == "mapping" else _type(dotted)
    try:
        value = load_value(raw) if raw else None
    except NOT_YAML:
        return raw
    if kind not in ("text", "text | null"):
        return value
    text = raw.strip()
    if kind == "text | null" and text in ("", "null", "~"):
        return None
    return value if text.startswith(("'", '"')) and isinstance(value, str) else text


def _type(dotted: str) -> str:
    """The type of a key in words; empty where there is no such key, or a plug-in has it."""
    return str(describe().get(re.sub(r"\.\d+(?=\.|$)", "[]", dotted), {}).get("type", ""))


def _parts(dotted: str) -> list[str]:
    """The parts of a dotted key; below a mapping of names of its own (`objective.targets`) the rest is one name."""
    parts = dotted.split(".")
    for end in range(1, len(parts)):
        if _type(".".join(parts[:end])) == "mapping":
            return [*parts[:end], ".".join(parts[end:])]
    return parts


def _assign(values: dict[str, Any], dotted: str, value: Any) -> None:
    node: Any = values
    *parents, leaf = _parts(dotted)
    for depth, name in enumerate(parents):
        if isinstance(node, list):
            node = node[_index(node, name, dotted)]
            continue
        child = node.setdefault(name, {})
        if child is None or isinstance(child, str):
            # `adapter: lora` plus adapter.r=8 means {kind: lora, r: 8}
            child = {"kind": child} if isinstance(child, str) and depth == 0 and name in ("adapter", "method") else {}
            node[name] = child
        node = child
    if isinstance(node, list):
        node[_index(node, leaf, dotted)] = copy.deepcopy(value)
    elif isinstance(node, dict):
        if dotted in ("adapter.kind", "method.kind") and node.get("kind") not in (None, value):
            node.clear()  # the old kind's own keys mean nothing to the new one
        node[leaf] = copy.deepcopy(value)  # a later key may write below it
    else:
        raise ConfigError(
            201,
            f"Unknown key `{dotted}`",
            received=f"`{leaf}` below a value of type {type(node).__name__}",
            fix="docs/recipe.md lists every key",
        )


def _index(node: list[Any], name: str, dotted: str) -> int:
    if not name.isdecimal() or int(name) >= len(node):
        raise ConfigError(
            201,
            f"Unknown key `{dotted}`",
            received=f"`{name}` in a list of {len(node)}",
            fix=f"a number from 0 to {len(node) - 1}" if node else "write the whole list, or put it into the recipe",
        )
    return int(name)


def _explain(error: ValidationError, marks: Mapping[str, int], file: str) -> ConfigError:
    first = error.errors()[0]
    parts = [str(p) for p in first["loc"]]
    # Unions add the name of the branch they tried (`constrained-float`, `literal['auto']`): not part of the key.
    # A key that is unknown is the last part, whatever its user wrote in it.
    unknown = first["type"] == "extra_forbidden"
    branches, last = (parts[:-1], parts[-1:]) if unknown else (parts, [])
    named = [p for p in branches if not re.search(r"[\[\]'-]", p) and p not in ("float", "int", "str")]
    dotted = ".".join([*named, *last])
    line = _nearest_mark(marks, dotted)
    place = f"{file}:{line}" if line else file
    if unknown:
        owner, leaf = ".".join(named), parts[-1]
        foreign = FOREIGN_KEYS.get(leaf)
        if foreign:
            tool, ours = foreign
            return ConfigError(201, f"Unknown key `{dotted}`: that is {tool}'s", place=place, fix=f"here: {ours}")
        near = difflib.get_close_matches(leaf.replace("-", "_"), _keys_of(owner), n=1) or _elsewhere(leaf)
        return ConfigError(
            201,
            f"Unknown key `{dotted}`",
            place=place,
            expected=", ".join(_keys_of(owner)),
            fix=f"Did you mean `{near[0]}`?" if near else "docs/recipe.md lists every key",
        )
    if first["type"] == "missing":
        return ConfigError(202, f"`{dotted}` is missing", place=place, fix=f"add `{dotted}` to the recipe")
    info = describe().get(re.sub(r"\.\d+\.", "[].", dotted), {})
    return ConfigError(
        202,
        f"`{dotted}` has a wrong value: {first['msg']}",
        place=place,
        received=_shown(first.get("input")),
        expected=str(info.get("type", "")),
        fix=str(info.get("description", "")),
    )


def _nearest_mark(marks: Mapping[str, int], dotted: str) -> int | None:
    path = dotted
    while path:
        if path in marks:
            return marks[path]
        path = path.rpartition(".")[0]
    return None


def _keys_of(owner: str) -> list[str]:
    prefix = re.sub(r"\.\d+(?=\.|$)", "[]", owner)
    prefix = f"{prefix}." if prefix else ""
    found = {k[len(prefix) :].split(".")[0].removesuffix("[]") for k in describe() if k.startswith(prefix)}
    return sorted(found)


def _elsewhere(leaf: str) -> list[str]:
    """A right key in the wrong section: its full path."""
    paths = [p for p in describe() if p.rpartition(".")[2] == leaf]
    if paths:
        return paths
    leaves = {p.rpartition(".")[2]: p for p in describe()}
    return [leaves[m] for m in difflib.get_close_matches(leaf, leaves, n=1)]


def _leaves(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict) and value:
        found: dict[str, Any] = {}
        for name, child in value.items():
            found.update(_leaves(child, f"{prefix}.{name}" if prefix else str(name)))
        return found
    return {prefix: value}


def _section_type(annotation: Any) -> type[BaseModel] | None:
    for candidate in (annotation, *getattr(annotation, "__args__", ())):
        if isinstance(candidate, type) and issubclass(candidate, Section):
            return candidate
    return None


@cache
def _types(model: type[BaseModel]) -> dict[str, str]:
    """The type of every key of a section, in words."""
    schema = model.model_json_schema()
    return {name: type_of(info, schema.get("$defs", {})) for name, info in schema["properties"].items()}


def _shown(value: object, limit: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


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
"""Keys of other tools: whose they are and what says the same here."""

__all__ = ["Change", "Kind", "Marked", "Recipe", "describe", "differences", "semantic_values"]
