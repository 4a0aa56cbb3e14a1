"""Write a policy for other runtimes: a Hugging Face directory (adapter merged) or a PEFT directory (adapter alone).

Both carry the tokenizer, `chat_template.jinja`, `generation_config.json` with all stop ids, safetensors weights and a
parity certificate (models/parity.py). The directory is written under a temporary name and renamed when it is whole
and certified: an export either exists and is right, or does not exist.

Task heads go out as `AutoModelForSequenceClassification` where transformers has the same computation: for causal
families a bias-free linear layer on the last token, for BERT and RoBERTa a dense layer with tanh on the first token
and a linear layer. Every other head is refused by name (E432). GGUF and ONNX are left out here.
"""

from __future__ import annotations

import copy
import errno
import importlib.util
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, GenerationConfig
from transformers.utils import logging as transformers_logging

from metier.core.errors import ConfigError, MachineError
from metier.core.project import disk_errors, fsync_directory
from metier.models.cache import Ids
from metier.models.parity import Form, certify, measure, probe_rows

CAUSAL: Any = AutoModelForCausalLM
CLASSIFIER: Any = AutoModelForSequenceClassification
PEFT_KINDS = ("lora",)
BERT_LIKE = ("bert", "roberta", "xlm-roberta", "camembert")
HF_PROBLEM = {
    "single_label": "single_label_classification",
    "multi_label": "multi_label_classification",
    "regression": "regression",
}


@dataclass(frozen=True, slots=True)
class Export:
    """What was written, and its certificate (None when none was asked for)."""

    dir: Path
    form: Form
    dtype: str
    parity: dict[str, Any] | None


def export(
    policy: Any,
    to: Path,
    *,
    form: Form = "hf",
    dtype: str = "auto",
    probes: Sequence[Ids] = (),
    parity: bool = True,
    texts: Mapping[str, str] | None = None,
) -> Export:
    """Write the policy to a new directory and certify it.

    `hf` merges the adapter into the policy's weights: the policy computes the same afterwards, but trains no more.

    Args:
        policy: models/policy.py.
        to: the directory to make; it may exist only if it is empty.
        form: `hf` or `peft`.
        dtype: of the written weights: `auto` (the precision the policy computed in), `float32`, `bfloat16`.
        probes: token ids of real rows for the certificate.
        parity: whether to make the certificate.
        texts: further files, name → text, such as a model card as `README.md`.

    Raises:
        ConfigError: E271, no such form or dtype, or an adapter that PEFT does not know.
        MachineError: E420–E422 the disk; E432 a head that transformers cannot express; E435 not the same model;
            E436 cannot be loaded; E437 the directory is not empty; E438 peft or the base is missing; E439 the merged
            model has foreign tensors.
    """
    name = _dtype_name(policy, form, dtype)
    _check_target(to)
    if form == "peft":
        _check_peft(policy, parity)
    elif policy.head is not None:
        _head_tensors(policy)  # refuse before any work
    stop_ids = _stop_ids(policy)
    rows = probe_rows(probes, int(policy.base.model.get_input_embeddings().weight.shape[0]))
    reference = measure(policy, rows, stop_ids=stop_ids) if parity else None
    with _whole(to) as folder:
        if form == "hf":
            policy.adapter.merge()
            _write_weights(policy, folder, getattr(torch, name))
        else:
            policy.adapter.save(folder, policy.base.source)
        _write_companions(policy, folder, stop_ids, texts or {})
        certificate = None
        if reference is not None:
            base = Path(policy.base.path) if form == "peft" else None
            certificate = certify(folder, reference, form=form, dtype=name, base=base)
    return Export(to, form, name, certificate)


# ───────────────────────────────────────────────────────────────────────────── checks


def form_of(written: str) -> Form:
    """Return the form that a caller has written.

    Raises:
        ConfigError: E271, no such form.
    """
    forms: dict[str, Form] = {"hf": "hf", "peft": "peft"}
    if written not in forms:
        raise _no_such(f"form={written}")
    return forms[written]


def _no_such(received: str) -> ConfigError:
    return ConfigError(
        271,
        "There is no such export",
        received=received,
        expected="form hf or peft; dtype auto, float32, bfloat16 or float16",
        fix="metier models export RUN --form hf",
    )


def _dtype_name(policy: Any, form: str, dtype: str) -> str:
    form = form_of(form)
    if dtype not in ("auto", "float32", "bfloat16", "float16"):
        raise _no_such(f"dtype={dtype}")
    if form == "peft":
        return "float32"  # adapters are trained and kept in float32
    return str(policy.dtype).removeprefix("torch.") if dtype == "auto" else dtype


def _check_target(to: Path) -> None:
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise MachineError(437, "The directory to export to is not empty", place=str(to), fix="choose a new directory")


def _check_peft(policy: Any, parity: bool) -> None:
    if policy.adapter_kind not in PEFT_KINDS:
        raise ConfigError(
            271,
            "This adapter has no PEFT form",
            received=policy.adapter_kind,
            expected=", ".join(PEFT_KINDS),
            fix="form=hf",
        )
    if policy.head is not None:
        raise MachineError(
            432, "A task head cannot be part of a PEFT export", expected="form=hf", fix="metier models export --form hf"
        )
    if parity and policy.base.path is None:
        raise MachineError(
            438,
            "The certificate of a PEFT export needs the base model's directory",
            received="a base that was made in memory",
            fix="load the base from its directory, or export with parity=False",
        )
    if parity and importlib.util.find_spec("peft") is None:
        raise MachineError(438, "The certificate of a PEFT export needs peft", fix="pip install 'metier[peft]'")


def _stop_ids(policy: Any) -> list[int]:
    """All stop ids: the encoder's (end-of-turn included), else the tokenizer's end-of-sequence token."""
    found = set(getattr(policy.encoder, "stop_ids", ()) or ())
    if not found and getattr(policy.base.tokenizer, "eos_token_id", None) is not None:
        found = {int(policy.base.tokenizer.eos_token_id)}
    return sorted(found)


# ───────────────────────────────────────────────────────────────────────────── files


@contextmanager
def _whole(to: Path) -> Iterator[Path]:
    """Yield a temporary directory beside `to`, renamed when the block ends well and removed when it does not."""
    folder = to.with_name(f".{to.name}.{secrets.token_hex(4)}.tmp")
    with disk_errors(to):
        folder.mkdir(parents=True)
        try:
            with _safetensors_errors():
                yield folder
            for path in folder.rglob("*"):
                if path.is_file():
                    # safetensors writes for the owner alone; an export is for whoever may read the other files.
                    path.chmod(0o644)
                    _fsync(path)
            fsync_directory(folder)
            if to.exists():
                to.rmdir()
            folder.rename(to)
            fsync_directory(to.parent)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _safetensors_errors() -> Iterator[None]:
    """Give the safetensors writer's I/O errors back their number, so that a full disk is called one."""
    try:
        yield
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        code = int(number[1]) if number else errno.EIO
        raise OSError(code, os.strerror(code)) from error


@contextmanager
def _no_bar() -> Iterator[None]:
    """Keep transformers from drawing a progress bar over our own lines."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _fsync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _write_weights(policy: Any, folder: Path, dtype: torch.dtype) -> None:
    """Write the merged model, checked tensor by tensor against what transformers expects of the configuration."""
    model = policy.base.model
    config = _clean_config(model, dtype)
    if policy.head is None:
        with torch.device("meta"):
            clean = CAUSAL.from_config(config)
        _assign(clean, model.state_dict(), dtype)
    else:
        _describe_head(policy, config)
        with torch.device("meta"):
            clean = CLASSIFIER.from_config(config)
        trunk = model if policy.base.kind == "encoder" else model.base_model
        expected, prefix = set(clean.state_dict()), f"{clean.base_model_prefix}."
        state = {prefix + name: tensor for name, tensor in trunk.state_dict().items()}
        # A pooler that our heads never read is no part of RoBERTa's classifier.
        state = {n: t for n, t in state.items() if n in expected or not n.startswith(f"{prefix}pooler.")}
        _assign(clean, {**state, **_head_tensors(policy)}, dtype)
    with _no_bar():
        clean.save_pretrained(folder)


def _describe_head(policy: Any, config: Any) -> None:
    labels = policy.head.labels
    config.num_labels = policy.head.num_outputs
    if len(labels) == policy.head.num_outputs:
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: index for index, label in enumerate(labels)}
    config.problem_type = HF_PROBLEM[policy.head.problem_type]
    if config.pad_token_id is None:
        config.pad_token_id = _pad_id(policy)


def _clean_config(model: Any, dtype: torch.dtype) -> Any:
    config = copy.deepcopy(model.config)
    config._attn_implementation = None  # ours is not registered elsewhere
    config.dtype = dtype
    return config


def _assign(clean: Any, state: Mapping[str, torch.Tensor], dtype: torch.dtype) -> None:
    """Put the tensors into an empty model of the family; every name must be expected, and none may be missing."""
    tied = set(getattr(clean, "all_tied_weights_keys", None) or {})
    expected = set(clean.state_dict())
    missing = sorted(expected - set(state) - tied)
    foreign = sorted(set(state) - expected)
    if missing or foreign:
        raise MachineError(
            439,
            "The merged model does not have the tensors that transformers expects",
            received=f"missing {missing[:3]}, foreign {foreign[:3]}",
            fix="this adapter cannot be merged; export it as peft",
        )
    cast = {k: v.detach().to("cpu", dtype) if v.is_floating_point() else v.detach().cpu() for k, v in state.items()}
    clean.load_state_dict(cast, strict=False, assign=True)
    clean.tie_weights()


def _write_companions(policy: Any, folder: Path, stop_ids: list[int], texts: Mapping[str, str]) -> None:
    """Write tokenizer, chat template, generation settings and the caller's own files."""
    tokenizer = policy.base.tokenizer
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
        dialect = getattr(policy.encoder, "dialect", None)
        template = dialect.source if dialect is not None else getattr(tokenizer, "chat_template", None)
        if template:
            (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    if policy.base.kind == "causal" and policy.head is None:
        settings: Any = GenerationConfig(  # type: ignore[no-untyped-call]
            bos_token_id=getattr(tokenizer, "bos_token_id", None),
            eos_token_id=stop_ids or None,
            pad_token_id=_pad_id(policy),
            do_sample=False,
        )
        settings.save_pretrained(folder)
    for name, text in texts.items():
        (folder / Path(name).name).write_text(text, encoding="utf-8")


def _pad_id(policy: Any) -> int:
    for owner, attribute in ((policy.encoder, "pad_id"), (policy.base.tokenizer, "pad_token_id")):
        value = getattr(owner, attribute, None)
        if value is not None:
            return int(value)
    return min(_stop_ids(policy), default=0)


# ───────────────────────────────────────────────────────────────────────────── heads


def _head_tensors(policy: Any) -> dict[str, torch.Tensor]:
    """Return the head's tensors under the names of the family's `…ForSequenceClassification`.

    A regression's outputs are put back on the scale of its targets, which takes a bias where their mean is not 0; the
    temperature of the others is divided into the output layer.

    Raises:
        MachineError: E432, transformers has no such head for this family.
    """
    head, spec, family = policy.head, policy.head.spec, policy.base.model.config.model_type
    layers = list(head.hidden)
    scale = spec.target_scale / head.temperature
    output = {"weight": head.output.weight.detach() * scale}
    if head.output.bias is not None:
        output["bias"] = head.output.bias.detach() * scale + spec.target_mean
    shape = (spec.pooling, len(layers), head.output.bias is not None)
    if policy.base.kind == "causal" and shape == ("last", 0, False) and not spec.target_mean:
        return {"score.weight": output["weight"]}
    if family in BERT_LIKE and shape == ("cls", 1, True):
        trunk = policy.base.model.base_model_prefix
        dense = {"bert": f"{trunk}.pooler.dense"}.get(family, "classifier.dense")
        last = {"bert": "classifier"}.get(family, "classifier.out_proj")
        return {
            f"{dense}.weight": layers[0].weight.detach(),
            f"{dense}.bias": layers[0].bias.detach(),
            **{f"{last}.{name}": tensor for name, tensor in output.items()},
        }
    raise MachineError(
        432,
        f"transformers has no such task head for {family}",
        received=f"pooling {spec.pooling}, {len(layers)} hidden layers, {'a' if shape[2] else 'no'} bias"
        + (", targets with a mean" if spec.target_mean else ""),
        expected="decoders: pooling last, hidden_layers 0, no bias; BERT, RoBERTa: pooling cls, hidden_layers 1, bias",
        fix="the run itself keeps the head: metier predict reads it from there",
    )
