"""Policy: a base model with its adapter, task head and encoder; what training, evaluation and serving talk to.

Shapes: B rows, T positions, D hidden width, V vocabulary, N examples (segments), K outputs of the head.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from metier.core.batch import Batch
from metier.core.catalog import catalog
from metier.core.errors import MachineError
from metier.core.project import read_json, write_json
from metier.core.types import Completion
from metier.models import attention
from metier.models.adapters import Adapter
from metier.models.base import Base
from metier.models.compiled import CompiledBlocks
from metier.models.heads import HeadSpec, Pooling, TaskHead, pool
from metier.models.output import OutputLayer, express
from metier.models.rows import repack, row_lengths, unpack
from metier.models.tensors import ANOTHER_COPY, fill, read_tensors, write_tensors
from metier.models.trunk import Trunk, from_numpy

POLICY_FILE = "metier_policy.json"
HEAD_WEIGHTS, HEAD_FILE = "head.safetensors", "head.json"


class Policy:
    """The model being trained. `build` makes one, `Policy.load` reads one back.

    Attributes:
        base, adapter, head, encoder: its parts; `head` and `encoder` may be None.
        adapter_kind, adapter_options: what the adapter was made with, as plain data.
        trunk: its frozen part, where batches may carry what leaves it.
        compiled: its blocks, compiled for passes with a gradient.
    """

    def __init__(
        self,
        base: Base,
        adapter: Adapter,
        *,
        adapter_options: Mapping[str, Any],
        head: TaskHead | None,
        encoder: Any,
    ) -> None:
        self.base, self.adapter, self.head, self.encoder = base, adapter, head, encoder
        self.adapter_kind = adapter.kind
        self.adapter_options = dict(adapter_options)
        self.trunk: Trunk | None = None
        self.compiled: CompiledBlocks | None = None
        self._output: OutputLayer | None = None
        self._own_head = False
        if head is not None:
            head.to(base.device)

    # ── what it is ──

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.base.device

    @property
    def dtype(self) -> torch.dtype:
        """The precision of its matrix products."""
        return self.base.dtype

    @property
    def width(self) -> int:
        """D."""
        return self.base.hidden_size

    @property
    def num_parameters(self) -> int:
        """Weights of the base and the task head."""
        head = self.head.parameters() if self.head is not None else ()
        return self.base.num_parameters + sum(p.numel() for p in head)

    def trained(self) -> dict[str, nn.Parameter]:
        """Return the trained parameters, `adapter.*` before `head.*`, in a stable order; all float32."""
        found = {f"adapter.{name}": p for name, p in self.adapter.trainable().items()}
        if self.head is not None:
            found.update({f"head.{name}": p for name, p in self.head.named_parameters()})
        return found

    def hidden_matrices(self) -> frozenset[str]:
        """Return the names of the trained matrices between hidden states: no embedding, output layer or task head."""
        model = self.base.model
        outer = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
        if (output := model.get_output_embeddings()) is not None:
            outer |= {id(p) for p in output.parameters()}
        return frozenset(
            f"adapter.{name}" for name, p in self.adapter.trainable().items() if p.ndim == 2 and id(p) not in outer
        )

    # ── modes ──

    def train(self) -> Policy:
        """Switch dropout on where weights train; frozen parts stay in evaluation mode."""
        self.base.model.eval()
        for module in self.adapter.modules():
            module.train()
        self.base.model.training = True  # the flag of the whole, which says in what mode the policy is
        if self.head is not None:
            self.head.train()
        return self

    def eval(self) -> Policy:
        """Switch dropout off."""
        self.base.model.eval()
        if self.head is not None:
            self.head.eval()
        return self

    @contextlib.contextmanager
    def computing(self) -> Iterator[None]:
        """Compute in `dtype`: autocast where float32 weights of the base meet a bfloat16 computation.

        Frozen weights are stored in `dtype`, and low-rank sums cast themselves, so that most policies need nothing.
        """
        trains_base = any(p.requires_grad for p in self._own_weights())
        if self.dtype == torch.float32 or not trains_base:
            yield
            return
        try:
            with torch.autocast(self.device.type, dtype=self.dtype):
                yield
        finally:
            self.base.casts.forget()

    @contextlib.contextmanager
    def reference(self) -> Iterator[None]:
        """Within this context the policy is its untouched base (the reference model).

        Raises:
            MachineError: E414, the base's weights were trained in place and have no directory to be read from.
        """
        with self.adapter.disabled():
            yield

    # ── forward ──

    def hidden(self, batch: Batch) -> Tensor:
        """Return the final hidden states (B, T, D), behind the last norm, of a packed or right-padded batch.

        Positions of padding hold numbers without meaning. Causal rows are computed without a mask; a family that
        cannot is given one, or, for packed rows, one row per segment: slower, and equal.
        """
        causal = self.base.kind == "causal"
        support = self.base.attention
        tokens_BT = torch.from_numpy(batch.tokens_BT).to(self.device)
        compiled = self.compiled if batch.trunk is None and torch.is_grad_enabled() else None
        with self.computing(), self._behind_trunk(batch):
            if batch.packed and not support.packing:
                return self._unpacked(batch)
            if batch.packed or compiled is not None:
                positions = torch.from_numpy(batch.positions_BT).to(self.device) + support.first_position
                blocks = compiled.active() if compiled is not None else contextlib.nullcontext()
                with attention.layout(row_lengths(batch.segments_BT), as_tensor=compiled is not None), blocks:
                    return attention.last_hidden(
                        self.base.model, tokens_BT, attention_mask=torch.ones_like(tokens_BT), position_ids=positions
                    )
            if causal and support.unmasked:
                with attention.layout(attention.RIGHT_PADDED):
                    return attention.last_hidden(self.base.model, tokens_BT, attention_mask=torch.ones_like(tokens_BT))
            real_BT = torch.from_numpy(batch.segments_BT > 0).to(self.device)
            return attention.last_hidden(self.base.model, tokens_BT, attention_mask=real_BT.long())

    def output_layer(self) -> OutputLayer | None:
        """Return the layer from hidden states to logits; on first use it is checked against the model's own logits.

        None where the family's head cannot be written as softcap(scale · (W h + b)): `own_logits` has to do.

        Raises:
            MachineError: E407, the base has no output head.
        """
        if self._output is None and not self._own_head:
            with self.computing():
                self._output = express(self.base)
            self._own_head = self._output is None
        return self._output.current() if self._output is not None else None

    @torch.no_grad()
    def logits(self, batch: Batch) -> Tensor:
        """Return `own_logits` without a gradient: what tests compare with."""
        return self.own_logits(batch)

    def own_logits(self, batch: Batch) -> Tensor:
        """Return the logits (B, T, V), float32, by the model's own forward pass, of every token.

        Packed rows are taken apart, one segment per row, and put together again; padding is zero.
        """
        rows = unpack(batch)
        with self.computing():
            out = self.base.model(
                input_ids=torch.from_numpy(rows.tokens_BT).to(self.device),
                attention_mask=torch.from_numpy(rows.segments_BT > 0).long().to(self.device),
                use_cache=False,
            )
        return repack(out.logits.float(), batch)

    def pooled(self, batch: Batch) -> Tensor:
        """Return one vector per example (N, D); without a head: the mean for encoders, the last token for decoders."""
        if batch.trunk is not None and batch.trunk.ndim == 2:
            return from_numpy(batch.trunk, self.device)
        default: Pooling = "last" if self.base.kind == "causal" else "mean"
        return pool(self.hidden(batch), batch, self.head.pooling if self.head is not None else default)

    def head_logits(self, batch: Batch) -> Tensor:
        """Return the head's outputs (N, K), float32; a regression's are standardised (HeadSpec).

        Raises:
            ValueError: the policy has no head.
        """
        if self.head is None:
            raise ValueError("this policy has no task head")
        out_NK: Tensor = self.head(self.pooled(batch))
        return out_NK

    @torch.no_grad()
    def token_logprobs(self, batch: Batch) -> Tensor:
        """Return log p of each token given its segment so far (B, T), float32; 0 at first tokens and padding."""
        layer = self.output_layer()
        inside = (batch.segments_BT > 0) & (batch.positions_BT > 0)
        places = torch.from_numpy(np.flatnonzero(inside)).to(self.device)
        tokens = torch.from_numpy(batch.tokens_BT.reshape(-1)).to(self.device)
        if layer is None:
            logprobs_BTV = self.own_logits(batch).log_softmax(-1)
            chosen_BT = logprobs_BTV[:, :-1].gather(2, tokens.view(batch.tokens_BT.shape)[:, 1:, None]).squeeze(2)
            return functional.pad(chosen_BT, (1, 0)) * torch.from_numpy(inside).to(self.device)
        hidden = self.hidden(batch)
        flat = hidden.reshape(-1, hidden.shape[-1])
        found = torch.zeros(tokens.shape[0], dtype=torch.float32, device=self.device)
        for part in torch.split(places, layer.rows_at_once()):
            logits_NV = layer(flat.index_select(0, part - 1))
            chosen = logits_NV.gather(1, tokens[part].unsqueeze(1)).squeeze(1)
            found[part] = chosen - logits_NV.logsumexp(dim=1)
        return found.view(batch.tokens_BT.shape)

    # ── inference ──

    def generate(self, prompts: Sequence[Sequence[int]], **options: Any) -> list[Completion]:
        """Return a completion per prompt of token ids; options are those of models/generate.py.

        Stop ids and pad id default to the encoder's; the text is decoded without special tokens.
        """
        from metier.models.generate import generate

        tokenizer = self.base.tokenizer
        options.setdefault("stop_ids", self._stop_ids())
        options.setdefault("pad_id", self._pad_id())
        if tokenizer is not None:
            options.setdefault("decode", lambda ids: tokenizer.decode(list(ids), skip_special_tokens=True))
        with self.computing():
            return generate(self.base.model, prompts, **options)

    # ── disk ──

    def save(self, folder: Path) -> None:
        """Write adapter (PEFT's layout for `lora`), head and what they belong to; the base's frozen weights stay out.

        Raises:
            MachineError: E420–E422, the disk is full or cannot be written.
        """
        self.adapter.save(folder, self.base.source)
        if self.head is not None:
            write_tensors(folder / HEAD_WEIGHTS, dict(self.head.named_parameters()), {"format": "pt"})
            write_json(folder / HEAD_FILE, asdict(self.head.spec))
        write_json(
            folder / POLICY_FILE,
            {
                "base": {
                    "name": self.base.name,
                    "kind": self.base.kind,
                    "digest": self.base.digest,
                    "config": self.base.config_digest,
                },
                "adapter": {"kind": self.adapter_kind, "options": self.adapter_options},
                "head": self.head is not None,
                "dtype": str(self.dtype).removeprefix("torch."),
            },
        )

    def restore(self, folder: Path) -> None:
        """Read trained weights that `save` wrote into this policy.

        Raises:
            MachineError: E408, they belong to another base, adapter or head.
        """
        saved = _saved(folder)
        ours = {
            "adapter": (saved["adapter"]["kind"], self.adapter_kind),
            "base": (saved["base"]["digest"], self.base.digest),
            # An earlier version wrote no digest of the config, which is then taken to be what it was.
            "base config": (saved["base"].get("config", self.base.config_digest), self.base.config_digest),
            "task head": (saved["head"], self.head is not None),
        }
        for what, (theirs, mine) in ours.items():
            if theirs != mine:
                raise MachineError(
                    408,
                    f"These weights were trained with another {what}",
                    place=str(folder / POLICY_FILE),
                    received=str(theirs)[:64],
                    expected=str(mine)[:64],
                    fix=f"the {what} they were trained with, or metier train RECIPE for a new run with this one",
                )
        self.adapter.load(folder)
        if self.head is not None:
            if read_head(folder) != self.head.spec:
                raise MachineError(
                    408, "These weights were trained with another task head", place=str(folder / HEAD_FILE),
                    expected="the same labels in the same order, pooling and layers",
                    fix="the dataset version and method they were trained with, or metier train RECIPE for a new run",
                )  # fmt: skip
            fill(dict(self.head.named_parameters()), read_tensors(folder / HEAD_WEIGHTS), folder / HEAD_WEIGHTS)

    @classmethod
    def load(cls, folder: Path, base: Base, *, encoder: Any = None) -> Policy:
        """Read a policy that `save` wrote onto a freshly loaded base.

        Raises:
            MachineError: E408, the directory is incomplete or belongs to another base.
        """
        saved = _saved(folder)
        policy = build(
            base,
            saved["adapter"]["kind"],
            saved["adapter"]["options"],
            head=read_head(folder) if saved["head"] else None,
            encoder=encoder,
            seed=0,
        )
        policy.restore(folder)
        return policy.eval()

    # ── inside ──

    def _own_weights(self) -> list[nn.Parameter]:
        """The base's own trained weights: not those of low-rank sums."""
        return [] if self.adapter_kind == "lora" else list(self.adapter.trainable().values())

    @contextlib.contextmanager
    def _behind_trunk(self, batch: Batch) -> Iterator[None]:
        """Start the pass behind the frozen blocks where the batch carries what leaves them."""
        if batch.trunk is None or batch.trunk.ndim == 2:
            yield
            return
        if self.trunk is None:
            raise ValueError("the batch carries states of a frozen trunk that this policy does not know")
        with self.trunk.skipped(from_numpy(batch.trunk, self.device)):
            yield

    def _unpacked(self, batch: Batch) -> Tensor:
        return repack(self.hidden(unpack(batch)), batch)

    def _stop_ids(self) -> Sequence[int]:
        ids = getattr(self.encoder, "stop_ids", None)
        eos = getattr(self.base.tokenizer, "eos_token_id", None)
        return tuple(ids) if ids else (() if eos is None else (int(eos),))

    def _pad_id(self) -> int:
        for owner, name in ((self.encoder, "pad_id"), (self.base.tokenizer, "pad_token_id")):
            if (value := getattr(owner, name, None)) is not None:
                return int(value)
        return 0


def build(
    base: Base,
    adapter_kind: str,
    adapter_options: Mapping[str, Any],
    *,
    head: HeadSpec | None = None,
    encoder: Any = None,
    seed: int = 0,
) -> Policy:
    """Put adapter and head on a base. The base's frozen weights take the precision of the computation.

    Args:
        adapter_options: a recipe's `adapter:` section without its `kind`.
        seed: of the adapter's and the head's initial weights.

    Raises:
        ConfigError: E210, E211, E260, E261: no such adapter, or options that do not fit it or the base.
    """
    adapters = catalog("adapters")
    options = adapters.options(adapter_kind, dict(adapter_options))
    adapter: Adapter = adapters.get(adapter_kind).attach(base, options, seed=seed, head=head is not None)
    made = None
    if head is not None:
        from torch._subclasses.fake_tensor import unset_fake_temporarily

        with unset_fake_temporarily():  # the memory estimate builds its model without data; this draws numbers
            made = TaskHead(base.hidden_size, head.resolved(causal=base.kind == "causal"), seed=seed + 1)
    policy = Policy(base, adapter, adapter_options=options.model_dump(mode="json"), head=made, encoder=encoder)
    return policy.eval()


def read_head(folder: Path) -> HeadSpec:
    """Return the spec of a saved head.

    Raises:
        MachineError: E408, it cannot be read.
    """
    value = read_json(folder / HEAD_FILE)
    value.pop("schema_version", None)
    try:
        return HeadSpec(**{**value, "labels": tuple(value["labels"])})
    except (KeyError, TypeError) as error:
        raise MachineError(
            408,
            "The task head's description cannot be read",
            place=str(folder / HEAD_FILE),
            received=str(error),
            fix=ANOTHER_COPY,
        ) from None


def _saved(folder: Path) -> dict[str, Any]:
    if not (folder / POLICY_FILE).is_file():
        raise MachineError(
            408, "The directory holds no policy", place=str(folder), expected=POLICY_FILE, fix=ANOTHER_COPY
        )
    return read_json(folder / POLICY_FILE)
