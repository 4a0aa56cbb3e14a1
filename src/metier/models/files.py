"""The files of a model directory: where it lies, what it may hold, what its weights are.

Nothing here loads weights or runs code of the directory. Pickled weights and code beside the model are refused.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from metier.core.errors import MachineError
from metier.core.project import digest_json

Kind = Literal["causal", "encoder"]
NANO = "metier/nano"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


# ───────────────────────────────────────────────────────────────────────────── finding


def find(name: str, *, revision: str | None, resolve: Callable[[str], Path]) -> Path:
    """Return the directory of a base model.

    Raises:
        MachineError: E401, it is not on this machine.
    """
    if name == NANO:
        with resources.as_file(resources.files("metier.models") / "assets" / "nano") as shipped:
            if not (shipped / "config.json").is_file():
                raise MachineError(
                    401,
                    "This installation lacks metier/nano",
                    place=str(shipped),
                    fix="reinstall metier, or name another base",
                )
            return shipped
    local = resolve(name.removeprefix("file:"))
    if local.is_dir():
        return local
    hub = name.removeprefix("hf:")
    if hub.count("/") == 1 and not hub.startswith((".", "/", "~")):
        cached = _from_cache(hub, revision)
        if cached is not None:
            return cached
        raise MachineError(
            401,
            "This model is neither a directory nor in the local Hugging Face cache",
            place=str(local),
            received=name,
            fix=f"on a machine with a network: hf download {hub}; or give a local directory",
        )
    raise MachineError(401, "There is no such model directory", place=str(local), fix="correct model.name_or_path")


def _from_cache(hub: str, revision: str | None) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(hub, revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None


# ───────────────────────────────────────────────────────────────────────────── looking before loading


def inspect(path: Path) -> tuple[Any, Kind, str]:
    """Check a model directory without loading its weights; return its config, its kind and why that kind.

    Raises:
        MachineError: E402, E403, E405 or E409, as in `load`.
    """
    from transformers import AutoConfig

    for file in ("config.json", "tokenizer_config.json"):
        if (path / file).is_file() and "auto_map" in _read_json(path / file):
            raise MachineError(
                403,
                "The model brings its own Python code, which Metier never runs",
                place=str(path / file),
                received="auto_map",
                expected="an architecture that transformers itself knows",
                fix="name another model.name_or_path",
            )
    _refuse_quantized(path / "config.json")
    weight_files(path)
    try:
        config = AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    except (ValueError, KeyError, OSError, TypeError) as error:
        raise MachineError(
            405,
            "transformers cannot read the model's config.json",
            place=str(path / "config.json"),
            received=first_line(error),
            fix="copy the model again, or name another one",
        ) from error
    return config, *_kind_of(config, path)


def _refuse_quantized(file: Path) -> None:
    """Refuse weights that stand for others by scales beside them.

    A frozen weight is stored in the precision of the computation, which loses the scales without a word, and a digest
    or an export of packed integers would be none of the model.
    """
    config = _read_json(file)
    for part in (config, *(value for value in config.values() if isinstance(value, dict))):
        said = part.get("quantization_config")
        if said:
            method = said.get("quant_method") if isinstance(said, dict) else said
            raise MachineError(
                409,
                "The weights are quantized, and Metier trains and measures a model only in float32 or bfloat16",
                place=str(file),
                received=str(method or "quantization_config"),
                expected="weights in float32, bfloat16 or float16",
                fix="name a copy of the model without quantization: most often the one it was made from",
            )


def weight_files(path: Path) -> list[Path]:
    """Return the safetensors files of a model directory.

    Raises:
        MachineError: E402 only pickled weights, E405 no weights.
    """
    index = path / "model.safetensors.index.json"
    if index.is_file():
        return sorted({path / name for name in _read_json(index)["weight_map"].values()})
    found = sorted(p for p in path.glob("*.safetensors") if not p.name.startswith("adapter_"))
    if found:
        return [path / "model.safetensors"] if path / "model.safetensors" in found else found
    pickled = sorted(p.name for p in path.iterdir() if p.suffix in PICKLES)
    if pickled:
        raise MachineError(
            402,
            "The weights are pickled, and unpickling runs code",
            place=str(path / pickled[0]),
            expected="model.safetensors",
            fix="convert them once on a machine you can lose: load with transformers, save_pretrained",
        )
    raise MachineError(
        405, "The directory has no weights", place=str(path), expected="model.safetensors", fix="copy the model again"
    )


def _kind_of(config: Any, path: Path) -> tuple[Kind, str]:
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    if getattr(config, "is_encoder_decoder", False):
        raise MachineError(
            405, "Encoder-decoder models are not supported", place=str(path), received=config.model_type,
            expected="a decoder (causal language model) or an encoder", fix="name another model.name_or_path",
        )  # fmt: skip
    names = tuple(config.architectures or ())
    if any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in names):
        return "causal", f"causal because the config names {names[0]}"
    decoder = config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    encoder = config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    if decoder and not encoder:
        return "causal", f"causal because {config.model_type} is a decoder family"
    return "encoder", f"encoder because the config names {names[0] if names else config.model_type}"


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise _again("The model directory has no such file", path) from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise _again("The file is not JSON", path, str(error)) from None
    if not isinstance(value, dict):
        raise _again("The file is not a JSON object", path)
    return value


def _again(what: str, path: Path, received: str = "") -> MachineError:
    return MachineError(405, what, place=str(path), received=received, fix="copy the model again, or name another one")


def first_line(error: Exception) -> str:
    """Return an error of another library on one line, shortened."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200] if lines else ''}"


# ───────────────────────────────────────────────────────────────────────────── digests


def _header(path: Path) -> tuple[dict[str, Any], int]:
    """The header of a safetensors file, and where its data begins."""
    with path.open("rb") as file:
        raw = file.read(8)
        size = struct.unpack("<Q", raw)[0] if len(raw) == 8 else -1
        if not 0 < size <= path.stat().st_size - 8:
            raise MachineError(
                405, "The weights file is cut off or not safetensors", place=str(path), fix="copy it again"
            )
        try:
            header = json.loads(file.read(size))
        except (UnicodeDecodeError, json.JSONDecodeError):
            raise MachineError(
                405, "The weights file is not safetensors", place=str(path), fix="copy it again"
            ) from None
    header.pop("__metadata__", None)
    return header, 8 + size


def dtypes(path: Path) -> set[str]:
    """Return the floating-point types in a safetensors file, as it spells them: `F32`, `BF16` …."""
    if not path.is_file():
        raise MachineError(
            405, "A weights file named by the index is missing", place=str(path), fix="copy the model again"
        )
    return {entry["dtype"] for entry in _header(path)[0].values() if entry["dtype"][0] in "FB"}


def digest_files(path: Path) -> str:
    """Return Base.digest of a model directory, read in blocks."""
    tensors: dict[str, tuple[Path, int, dict[str, Any]]] = {}
    for file in weight_files(path):
        header, start = _header(file)
        tensors.update({name: (file, start, entry) for name, entry in header.items()})
    digest = hashlib.sha256()
    for name in sorted(tensors):
        file, start, entry = tensors[name]
        begin, end = entry["data_offsets"]
        digest.update(json.dumps([name, entry["dtype"], entry["shape"]]).encode())
        with file.open("rb") as data:
            data.seek(start + begin)
            left = end - begin
            while left:
                block = data.read(min(left, 1 << 24))
                if not block:
                    raise MachineError(405, "The weights file is cut off", place=str(file), fix="copy it again")
                digest.update(block)
                left -= len(block)
    for extra in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        if (path / extra).is_file():
            digest.update(extra.encode() + (path / extra).read_bytes())
    return digest.hexdigest()


NOT_COMPUTING = {
    *("transformers_version", "dtype", "torch_dtype", "use_cache", "return_dict", "output_attentions"),
    *("output_hidden_states", "attn_implementation", "initializer_range", "initializer_factor", "bos_token_id"),
    *("eos_token_id", "id2label", "label2id", "num_labels", "problem_type", "task_specific_params", "finetuning_task"),
}
"""Keys of a config.json, beside those that begin with `_`, that change nothing of a forward pass: who wrote it, how it
is stored and first drawn, generation, and heads that are not loaded."""


def digest_config(path: Path) -> str:
    """Return Base.config_digest of a model directory.

    Of the file, not of what transformers makes of it: a version that knows more keys must not look like another model.
    """
    return digest_settings(_read_json(path / "config.json"))


def digest_settings(config: dict[str, Any]) -> str:
    """Return the digest of what computes in a config, its parts for text or pictures included."""

    def computing(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        kept = {key: part for key, part in value.items() if key not in NOT_COMPUTING and not key.startswith("_")}
        return {key: computing(part) for key, part in kept.items()}

    return digest_json(computing(config))


def digest_in_memory(model: Any, tokenizer: Any) -> str:
    """Return a digest of a model that has no directory."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    if tokenizer is not None:
        digest.update(digest_json([tokenizer.get_vocab(), getattr(tokenizer, "chat_template", None)]).encode())
    return digest.hexdigest()
