"""A make-believe device without float64, as Apple's GPUs are, for the test that nothing of ours asks for it there.

Its tensors are wrappers round tensors of the CPU, on a device of another name: an operation between the two, a
`.numpy()` or a float64 there fails as it would on the real one. Running this file computes the figures of each verb on
the CPU and on that device, and prints both as JSON; the test does so in a process of its own, since PyTorch has room
for one such device.

Left out: what else a real device does differently (kernels of its own, other roundings, operations that are missing),
and the backward pass, whose C++ part makes tensors there without asking.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode

NAME = "far"


class FarTensor(torch.Tensor):
    """A tensor on the device `far`."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> FarTensor:
        """Wrap a tensor of the CPU; TypeError for float64, in the words of PyTorch's MPS backend."""
        if inner.dtype == torch.float64:
            raise TypeError("Cannot convert a tensor to float64 dtype: the device doesn't support float64")
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=torch.device(NAME, 0),
        )
        made.inner = inner
        return made

    def tolist(self) -> Any:
        """Return plain numbers: PyTorch itself refuses to, for a subclass."""
        return self.inner.tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(func, args, kwargs or {})


class Far(TorchDispatchMode):
    """While it is entered, `device="far"` works."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(func, args, kwargs or {})


class FromLists(TorchFunctionMode):
    """`torch.tensor([1, 2], device="far")`: made in C++, where no mode looks."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        device = kwargs.get("device")
        if func is not torch.tensor or device is None or torch.device(device).type != NAME:
            return func(*args, **kwargs)
        return func(*args, **{**kwargs, "device": "cpu"}).to(device)


def _compute(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Compute with the wrapped tensors, and wrap what belongs on the device."""
    tensors = [t for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
    on_device = any(isinstance(t, FarTensor) for t in tensors)
    if on_device and "copy" not in str(func):
        stray = [t for t in tensors if not isinstance(t, FarTensor) and t.ndim]
        if stray and "index" not in str(func):  # an index may come from the CPU
            raise RuntimeError(f"Expected all tensors to be on the same device, in {func}")
    args, kwargs = pytree.tree_map_only(FarTensor, lambda t: t.inner, (args, kwargs))
    if kwargs.get("device") is not None:
        on_device = torch.device(kwargs["device"]).type == NAME
        kwargs["device"] = torch.device("cpu")
    out = func(*args, **kwargs)
    return pytree.tree_map_only(torch.Tensor, FarTensor, out) if on_device else out


# ───────────────────────────────────────────────────────────────────────────── the verbs


def figures(device: str) -> dict[str, Any]:
    """Return what each verb that runs on a device answers there."""
    from contract.test_methods import LABELS, examples, parts
    from metier.evaluation.predict import predict_head, predict_text
    from metier.models import heads, parity
    from metier.models.score import score_prompts
    from metier.training.calibration import calibrate
    from metier.training.validate import validate

    def moved(*what: Any) -> Any:
        method, feed, policy = parts(*what)
        policy.base.model.to(device)
        policy.base.device = torch.device(device)
        if policy.head is not None:
            policy.head.to(device)
        return method, feed, policy

    found: dict[str, Any] = {}
    method, feed, policy = moved("sft", "lora", {"r": 4})
    found["validate"] = list(validate(policy, method, feed, budget_tokens=512, packing=False).values())
    prompts = [[5, 9, 30, 7], [8, 8, 40, 7], [3, 100]]
    sampled = {"max_new_tokens": 6, "temperature": 1.0, "seed": 3, "stop_ids": ()}
    found["generate"] = [list(c.token_ids) for c in policy.generate(prompts, **sampled)]
    found["generate top_k"] = [list(c.token_ids) for c in policy.generate(prompts, top_k=20, top_p=0.9, **sampled)]
    found["score"] = score_prompts(policy.base.model, prompts, [[7, 8], [7, 9, 11], [60]]).tolist()
    found["likelihood"] = [p.nll for p in predict_text(policy, examples("sft")[:6])]
    method, feed, policy = moved("classify", "lora", {"r": 4})
    rows = examples("classify")[:6]
    answers = predict_head(policy, rows, labels=LABELS, problem_type="single_label")
    found["head"] = [list(p.label_probs.values()) for p in answers]
    batch = feed.collate(list(range(6)), [[0, 1], [2], [3, 4, 5]])
    found["mean"] = heads.pool(policy.hidden(batch), batch, "mean").tolist()
    found["parity"] = parity.measure(policy, [[5, 9, 30], [8, 40]]).figures
    feed = type(feed).of([*feed.items, *feed.items], pad_id=feed.pad_id, facts=method.facts)
    found["calibrate"] = calibrate(policy, feed, budget_tokens=512, packing=False).temperature
    return found


def main() -> None:
    """Print the figures of both devices."""
    module: Any = backend_registration._DummyBackendModule()
    module.get_amp_supported_dtype = lambda: [torch.bfloat16]
    backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=module)
    here = figures("cpu")
    with Far(), FromLists():
        there = figures(NAME)
    json.dump({"cpu": here, NAME: there}, sys.stdout)


if __name__ == "__main__":
    main()
