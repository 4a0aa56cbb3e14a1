"""The parity certificate: proof that an exported model is the model that was trained.

Before anything is merged or written, the policy's own figures are taken on probe rows: the log-probability of every
token, greedy continuations, or the outputs of its task head. A *fresh process* then loads the written directory with
plain transformers, never importing Metier, and measures the same. The certificate records the largest and the mean
difference, the greedy comparison, digests of the weight files and the library versions.

Both sides compute in float32 from stored weights, so that the precision of the computation cancels and only what the
export changed is seen. Rounding is all that may differ: below 1e-3 nats for float32 weights. For bfloat16 the largest
difference seen on two real checkpoints (LoRA and full, 12 exports) was 0.08 and the largest mean 0.009; the bounds are
about three times that. An adapter left out, doubled or halved gave means of 0.12 to 2.4 there. A greedy continuation
may part only where the two likeliest tokens lie closer together than the bound. What the certificate cannot tell: an
adapter whose whole effect is smaller than the rounding of the weights it was merged into.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from metier.core.batch import Batch
from metier.core.errors import MachineError
from metier.core.project import digest_file, now, write_json
from metier.models import parity_process
from metier.models.cache import Ids, inference
from metier.models.generate import generate

Form = Literal["hf", "peft"]
FILE = "parity.json"
GREEDY_TOKENS = 16
MAX_ROWS, MAX_ROW_TOKENS = 8, 256
BOUNDS: dict[str, tuple[float, float]] = {"float32": (1e-3, 1e-4), "bfloat16": (0.25, 0.03), "float16": (0.1, 0.01)}
"""Precision → largest and mean difference allowed, in nats (of a head: in units of its output)."""


@dataclass(frozen=True, slots=True)
class Reference:
    """The figures of the original: per probe row the log-probabilities (or head outputs), and greedy continuations."""

    head: bool
    dtype: str
    rows: list[list[int]]
    figures: list[list[float]]
    prompts: list[list[int]]
    greedy: list[list[int]]


def probe_rows(rows: Sequence[Ids], num_tokens: int) -> list[list[int]]:
    """Return rows fit for a probe: at most 8, at most 256 tokens each; fixed pseudo-random ids where there are none.

    Args:
        rows: token ids of real examples, preferably of validation.
        num_tokens: the size of the vocabulary.
    """
    kept = [[int(token) for token in row[:MAX_ROW_TOKENS]] for row in rows if len(row) > 1][:MAX_ROWS]
    rng = np.random.default_rng(0)
    return kept or [rng.integers(0, num_tokens, length).tolist() for length in (12, 24, 48)]


def measure(policy: Any, rows: Sequence[Ids], *, stop_ids: Sequence[int] = ()) -> Reference:
    """Take the policy's figures on probe rows as it stands, adapter on, computed in float32 from its stored weights.

    A bfloat16 policy needs its weights a second time in float32 meanwhile.
    """
    probes = [list(row) for row in rows]
    dtype = _name(policy.dtype)
    with inference(policy.base.model), _in_float32(policy.base):
        if policy.head is not None:
            figures = [_head_outputs(policy, row) for row in probes]
            return Reference(True, dtype, probes, figures, [], [])
        figures = [_logprobs(policy.base.model, row) for row in probes]
        prompts = [row[: max(1, len(row) // 2)] for row in probes]
        found = generate(policy.base.model, prompts, max_new_tokens=GREEDY_TOKENS, stop_ids=stop_ids)
    return Reference(False, dtype, probes, figures, prompts, [list(c.token_ids) for c in found])


@contextmanager
def _in_float32(base: Any) -> Iterator[None]:
    """Compute in float32 with the weights as they are stored, so that only what the export changes is compared."""
    stored = {p: p.data for p in base.model.parameters() if p.is_floating_point() and p.dtype != torch.float32}
    dtype = base.dtype
    try:
        base.dtype = torch.float32
        for parameter, data in stored.items():
            parameter.data = data.float()
        yield
    finally:
        base.dtype = dtype
        for parameter, data in stored.items():
            parameter.data = data


def certify(
    folder: Path, reference: Reference, *, form: Form, dtype: str, base: Path | None = None, timeout_seconds: int = 1800
) -> dict[str, Any]:
    """Load the written directory in a fresh process, compare, and write `parity.json` there.

    Args:
        folder: what was written.
        reference: `measure` of the policy, taken before the merge.
        form: `hf`, or `peft` (which also needs `base`, the directory of the base model).
        dtype: the precision of the written weights.
        base: the directory of the base model.
        timeout_seconds: after so long the process is given up.

    Returns:
        The certificate.

    Raises:
        MachineError: E435 the figures differ by more than rounding, E436 the directory cannot be loaded.
    """
    found = _run_fresh(folder, reference, form, base, timeout_seconds)
    certificate = _compare(reference, found, dtype)
    weights = sorted(p for p in folder.iterdir() if p.suffix == ".safetensors")
    certificate = {
        "made": now(),
        "form": form,
        **certificate,
        "versions": found["versions"],
        "files": {path.name: digest_file(path) for path in weights},
    }
    if not certificate["passed"]:
        raise MachineError(
            435,
            "The written model is not the trained one: their outputs differ by more than rounding",
            received=f"largest {certificate['max_difference']:.4g}, mean {certificate['mean_difference']:.4g}",
            expected=f"at most {certificate['max_allowed']:g} and {certificate['mean_allowed']:g} ({dtype})",
            fix="the export was not kept; keep the run, and report it",
        )
    write_json(folder / FILE, certificate)
    return certificate


# ───────────────────────────────────────────────────────────────────────────── the two sides


def _logprobs(model: Any, row: Ids) -> list[float]:
    ids = torch.tensor([list(row)], device=model.get_input_embeddings().weight.device)
    logprobs_TV = model(input_ids=ids).logits[0, :-1].float().log_softmax(-1)
    values: list[float] = logprobs_TV.gather(-1, ids[0, 1:, None])[:, 0].tolist()
    return values


def _head_outputs(policy: Any, row: list[int]) -> list[float]:
    tokens_BT = np.array([row], dtype=np.int64)
    batch = Batch(
        tokens_BT=tokens_BT,
        loss_mask_BT=np.zeros(tokens_BT.shape, dtype=np.float32),
        segments_BT=np.ones(tokens_BT.shape, dtype=np.int32),
        positions_BT=np.arange(len(row), dtype=np.int64)[None],
        example_ids=("probe",),
        weights={"examples": 1.0},
    )
    spec = policy.head.spec
    logits_K = policy.head_logits(batch)[0].cpu().double()  # not every device has float64
    outputs_K = logits_K / policy.head.temperature * spec.target_scale + spec.target_mean
    values: list[float] = outputs_K.tolist()
    return values


def request(folder: Path, reference: Reference, form: str, base: Path | None) -> dict[str, Any]:
    """Return what the fresh process is asked, as plain data."""
    return {
        "form": form,
        "dir": str(folder.resolve()),
        "base": str(base.resolve()) if base else None,
        "head": reference.head,
        "rows": reference.rows,
        "greedy": list(zip(reference.prompts, reference.greedy, strict=True)),
        "greedy_tokens": GREEDY_TOKENS,
    }


def _run_fresh(
    folder: Path, reference: Reference, form: Form, base: Path | None, timeout_seconds: int
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="metier-parity-") as scratch:
        asked, answered = Path(scratch, "request.json"), Path(scratch, "result.json")
        asked.write_text(json.dumps(request(folder, reference, form, base)), encoding="utf-8")
        command = [sys.executable, "-I", str(Path(parity_process.__file__)), str(asked), str(answered)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_seconds, check=False)
        except subprocess.TimeoutExpired:
            raise MachineError(
                436,
                "The fresh process that loads the export did not end",
                place=str(folder),
                received=f"{timeout_seconds} s",
                fix="the export was not kept; repeat it when the machine is less busy",
            ) from None
        if done.returncode or not answered.is_file():
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise MachineError(
                436,
                "Plain transformers cannot load the export in a fresh process",
                place=str(folder),
                received=last[:300] if done.returncode > 0 else f"killed by signal {-done.returncode}",
                fix="the export was not kept; free memory if it was killed, else report it",
            )
        result: dict[str, Any] = json.loads(answered.read_text(encoding="utf-8"))
    return result


def _compare(reference: Reference, found: dict[str, Any], dtype: str) -> dict[str, Any]:
    """Return the differences, the bounds they are held against, and whether they pass."""
    ours = np.concatenate([np.asarray(row, dtype=np.float64) for row in reference.figures])
    theirs = np.concatenate([np.asarray(row, dtype=np.float64) for row in found["rows"]])
    max_allowed, mean_allowed = max(BOUNDS[dtype], BOUNDS[reference.dtype])
    same_shape = [len(r) for r in reference.figures] == [len(r) for r in found["rows"]]
    differences = np.abs(ours - theirs) if same_shape else np.array([np.inf])
    equal = [a == b for a, b in zip(reference.greedy, found["greedy"], strict=True)]
    near = [same or gap <= max_allowed for same, gap in zip(equal, found["gaps"], strict=True)]
    small = bool(differences.max() <= max_allowed and differences.mean() <= mean_allowed)  # a NaN compares false
    return {
        "passed": small and all(near) and not found["metier_imported"],
        "compared": "head outputs" if reference.head else "log-probabilities",
        "max_difference": float(differences.max()),
        "mean_difference": float(differences.mean()),
        "max_allowed": max_allowed,
        "mean_allowed": mean_allowed,
        "num_rows": len(reference.rows),
        "num_figures": int(ours.size),
        "greedy_rows": len(equal),
        "greedy_equal": sum(equal),
        "greedy_parted_at_a_tie": sum(near) - sum(equal),
        "dtype": {"policy": reference.dtype, "export": dtype, "compared_in": "float32"},
    }


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
