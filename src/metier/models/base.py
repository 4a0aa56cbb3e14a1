"""Load a base model and its tokenizer: safetensors only, no code from the model's folder, every choice with its reason.

`load` reads a local directory, a model from the local Hugging Face cache, or `metier/nano`, which ships with the
package. Nothing is downloaded here. Decoders come as `AutoModelForCausalLM`, encoders as `AutoModel`.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metier.core.errors import MachineError
from metier.models import fused_choice, probe, segment_op
from metier.models.attention import Support
from metier.models.cache import context_window
from metier.models.casts import SharedCasts
from metier.models.files import (
    Kind,
    digest_config,
    digest_files,
    digest_in_memory,
    digest_settings,
    dtypes,
    find,
    first_line,
    inspect,
    weight_files,
)
from metier.models.gates import GatedMlp
from metier.models.norms import RmsNorm
from metier.models.probe import BEGAN_WITH
from metier.models.support import first_position, install

if TYPE_CHECKING:
    import torch

    from metier.core.sections import ModelSection


@dataclass
class Base:
    """A base model, loaded. `dtype` is the precision of the computation, not of the stored weights.

    `reasons` says why each automatic choice was made; `choices` are the values that a resume pins.
    """

    model: Any
    tokenizer: Any
    kind: Kind
    name: str
    path: Path | None
    device: torch.device
    dtype: torch.dtype
    reasons: dict[str, str]
    attention: Support
    choices: dict[str, str] = field(default_factory=dict)
    hub: tuple[str, str] | None = None
    """Id and commit, where it came from the local Hugging Face cache."""
    casts: SharedCasts = field(default_factory=SharedCasts, repr=False)
    """Casts of activations that several layers read; Policy.computing lets go of them."""

    @property
    def source(self) -> str:
        """Where `from_pretrained` of other libraries finds it: its hub id, else its directory on this machine.

        Metier itself never reads this back: a run finds its base by the recipe, and knows it by its digest.
        """
        if self.hub is not None:
            return self.hub[0]
        return self.name if self.path is None else str(self.path)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the sorted tensors (name, dtype, shape, bytes), the tokenizer and its chat template."""
        if self.path is None:
            return digest_in_memory(self.model, self.tokenizer)
        return digest_files(self.path)

    @cached_property
    def config_digest(self) -> str:
        """SHA-256 over what computes in config.json: equal weights behave otherwise with another `rope_theta`.

        Apart from `digest`, since policies of earlier versions know that one alone.
        """
        if self.path is None:
            return digest_settings(json.loads(self.model.config.to_json_string(use_diff=False)))
        return digest_config(self.path)

    @property
    def num_parameters(self) -> int:
        """Parameters of the base, shared ones counted once."""
        return sum(p.numel() for p in self.model.parameters())

    @property
    def context_window(self) -> int | None:
        """How many tokens a row may have; None where the config does not say."""
        window = context_window(self.model)
        return None if window is None else window - first_position(self.model)

    @property
    def hidden_size(self) -> int:
        """Width of the hidden states."""
        return int(self.model.config.get_text_config().hidden_size)


def load(section: ModelSection, *, resolve: Callable[[str], Path], choices: Mapping[str, str] | None = None) -> Base:
    """Load the recipe's base model.

    Args:
        section: `model:` of the recipe.
        resolve: turns a path of the recipe into a path of this machine (Project.path).
        choices: values pinned by an earlier run: `dtype`, `device`, `threads`, `attention_kernel`.

    Raises:
        MachineError: E401 not on this machine, E402 pickled weights, E403 needs code from its folder, E404 tokenizer
            larger than the vocabulary, E405 unreadable or of an unknown kind, E406 missing, unexpected or misshapen
            tensors, E409 quantized weights, E410 no such device, E450 a package that transformers needs for it.
    """
    import torch

    pinned = dict(choices or {})
    path = find(section.name_or_path, revision=section.revision, resolve=resolve)
    config, kind, kind_reason = inspect(path)
    device = _pin(pinned, "device", lambda: probe.choose_device(section.device))
    _check_device(device.value)
    threads = _pin(pinned, "threads", probe.choose_threads)
    torch.set_num_threads(int(threads.value))
    dtype = _pin(pinned, "dtype", lambda: probe.choose_dtype(section.dtype, device.value))
    kernel, attention = fused_choice.choose(device.value, dtype.value, pinned.get(fused_choice.KEY))
    tokenizer = _load_tokenizer(path)
    model = _load_model(path, config, kind, bfloat16=dtype.value == "bfloat16")
    _check_vocabulary(model, tokenizer, path)
    model.to(device.value)
    base = from_model(
        model, tokenizer, kind=kind, name=section.name_or_path, dtype=getattr(torch, dtype.value), path=path
    )
    if path.parent.name == "snapshots" and not resolve(section.name_or_path.removeprefix("file:")).is_dir():
        base.hub = section.name_or_path.removeprefix("hf:"), path.name
    if not base.attention.unmasked:
        kernel, attention = (
            None,
            probe.Choice(fused_choice.PYTORCH, "pytorch because the model keeps its own attention"),
        )
    base.choices = {
        "device": device.value,
        "threads": threads.value,
        "dtype": dtype.value,
        fused_choice.KEY: attention.value,
    }
    base.reasons[fused_choice.KEY] = attention.reason
    segment_op.use(kernel)  # last: what was loaded before keeps its own where this fails
    base.reasons.update(device=device.reason, threads=threads.reason, dtype=dtype.reason, kind=kind_reason)
    return base


def from_model(
    model: Any,
    tokenizer: Any,
    *,
    kind: Kind = "causal",
    name: str = "in-memory",
    dtype: torch.dtype | None = None,
    path: Path | None = None,
) -> Base:
    """Wrap a model that is in memory already; installs our attention where the model computes the same with it.

    Raises:
        MachineError: E405, a family that keeps its hidden states elsewhere (Llama 4, Mllama).
    """
    import torch

    if kind == "causal" and model.base_model is model:
        raise MachineError(
            405,
            f"Metier does not know how to reach the hidden states of a {type(model).__name__}",
            place=name if path is None else str(path),
            expected="a causal model whose body, below the output layer, transformers names `base_model`",
            fix="name another model.name_or_path",
        )
    support = install(model, causal=kind == "causal")
    base = Base(
        model=model.eval(),
        tokenizer=tokenizer,
        kind=kind,
        name=name,
        path=path,
        device=next(model.parameters()).device,
        dtype=dtype or torch.float32,
        reasons={"attention": support.reason},
        attention=support,
    )
    base.casts.install(model)
    for what, ours in (("norms", RmsNorm), ("gates", GatedMlp)):
        if count := sum(isinstance(module, ours) for module in model.modules()):
            base.reasons[what] = f"ours in {count} places: the same numbers as the family's own on a probe"
    if path is None:
        assert base.digest  # taken now: there is no file to take it from once weights have moved
    assert base.config_digest  # and this, before somebody corrects the file
    return base


def read_weights(base: Base, names: set[str]) -> dict[str, torch.Tensor]:
    """Read weights of the base again from its directory, in float32, under their names in the model."""
    assert base.path is not None
    config, kind, _ = inspect(base.path)
    model = _load_model(base.path, config, kind, bfloat16=False)
    return {name: p.data for name, p in model.named_parameters() if name in names}


def _check_device(device: str) -> None:
    """Refuse a pinned device that is not here; one that the recipe names has been looked for."""
    try:
        probe.choose_device(device)
    except MachineError as error:
        raise MachineError(
            410,
            "The run began on a device that is not available to PyTorch here",
            received=device,
            expected=error.expected,
            fix="go on where it began, or here with: metier runs resume RUN model.device=cpu",
        ) from None


def _pin(pinned: Mapping[str, str], key: str, choose: Callable[[], probe.Choice]) -> probe.Choice:
    if key in pinned:
        return probe.Choice(pinned[key], f"{pinned[key]} {BEGAN_WITH}")
    return choose()


# ───────────────────────────────────────────────────────────────────────────── loading


def _load_tokenizer(path: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        with _quiet():
            tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the readers of a dozen formats raise whatever they like
        raise MachineError(
            405, "The tokenizer cannot be read", place=str(path), received=first_line(error), expected="tokenizer.json",
            fix="copy the model again",
        ) from error  # fmt: skip
    if not tokenizer.is_fast:
        raise MachineError(
            405, "The tokenizer has no tokenizer.json", place=str(path),
            received=type(tokenizer).__name__, expected="a fast tokenizer, whose tokens know their place in the text",
            fix="convert it with transformers, or name another model.name_or_path",
        )  # fmt: skip
    return tokenizer


def _load_model(path: Path, config: Any, kind: Kind, *, bfloat16: bool) -> Any:
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModel, AutoModelForCausalLM

    # float32 weights stay float32 until the adapter has said which of them train; bfloat16 ones are not blown up.
    stored_16 = {dtype for file in weight_files(path) for dtype in dtypes(file)} == {"BF16"}
    dtype = torch.bfloat16 if bfloat16 and stored_16 else torch.float32
    loader: Any = AutoModelForCausalLM if kind == "causal" else AutoModel
    try:
        with _quiet():
            model, info = loader.from_pretrained(
                path,
                config=config,
                dtype=dtype,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # reported by us, as E406
            )
    except ImportError as error:
        raise MachineError(
            450,
            "transformers needs another package for this model",
            place=str(path),
            received=first_line(error),
            fix="install the package, or name another model.name_or_path",
        ) from error
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
        raise MachineError(
            405, "The weights cannot be read", place=str(path), received=first_line(error), fix="copy the model again"
        ) from error
    _check_tensors(info, kind, path)
    return model


def _check_tensors(info: Mapping[str, Any], kind: Kind, path: Path) -> None:
    wrong = {
        "missing": sorted(info["missing_keys"]),
        "unexpected": sorted(info["unexpected_keys"]),
        "of another shape": sorted(str(key[0] if isinstance(key, tuple) else key) for key in info["mismatched_keys"]),
    }
    if kind == "encoder":
        # An encoder's own head (masked words, an older classifier) is not loaded, and its pooler is not used.
        wrong["missing"] = [name for name in wrong["missing"] if "pooler" not in name.split(".")]
        wrong["unexpected"] = []
    for what, names in wrong.items():
        if names:
            raise MachineError(
                406,
                f"{len(names)} tensors are {what}",
                place=str(path),
                received=", ".join(names[:3]) + (" …" if len(names) > 3 else ""),
                expected="exactly the tensors of the architecture in config.json",
                fix="copy the model again, or correct config.json",
            )


def _check_vocabulary(model: Any, tokenizer: Any, path: Path) -> None:
    rows = int(model.get_input_embeddings().weight.shape[0])
    largest = max(tokenizer.get_vocab().values(), default=-1)
    if largest >= rows:
        raise MachineError(
            404,
            "The tokenizer has more tokens than the model has embeddings",
            place=str(path),
            received=f"token id {largest}",
            expected=f"ids below {rows}",
            fix="use the tokenizer that was trained with this model",
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers' loading report and progress bar off the terminal: what matters is checked and told by us."""
    from transformers.utils import logging as transformers_logging

    logging: Any = transformers_logging  # it has no types
    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()


__all__ = ["Base", "Kind", "from_model", "inspect", "load", "read_weights"]
