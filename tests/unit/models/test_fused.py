"""Our attention kernel: its numbers, who may use it, and what is told where it cannot be had."""

from __future__ import annotations

import json
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from metier.models import fused_choice, segment_op
from metier.models.attention import attend, layout, make_mask
from metier.models.fused import Kernel, Scope
from metier.models.fused_choice import choose
from metier.models.fused_proof import LARGEST_GAP, largest_gap, prove
from metier.models.rates import attention_seconds
from metier.models.segments import Lengths


@pytest.fixture(scope="module")
def kernel() -> Kernel:
    """The kernel of this machine."""
    found, choice = choose("cpu", "bfloat16")
    if found is None:
        pytest.skip(choice.reason)
    return found


@pytest.fixture
def in_use(kernel: Kernel) -> Iterator[Kernel]:
    """The kernel, used by attention for as long as the test runs."""
    before = segment_op.own_kernel()
    segment_op.use(kernel)
    yield kernel
    segment_op.use(before)


@pytest.fixture
def nothing_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A machine on which nothing was built yet; returns the folder of its cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    fused_choice._built.cache_clear()
    yield tmp_path / "cache" / "metier"
    fused_choice._built.cache_clear()


def rows(lengths: Lengths, *, heads: int = 4, groups: int = 2, width: int = 32, seed: int = 0) -> list[torch.Tensor]:
    """Query, key and value (B, heads, T, D) as a model hands them over: views of (B, T, heads, D)."""
    draw = torch.Generator().manual_seed(seed)
    return [
        torch.randn(len(lengths), sum(lengths[0]), n, width, generator=draw).to(torch.bfloat16).transpose(1, 2)
        for n in (heads, groups, groups)
    ]


def attention_module(*, causal: bool = True) -> torch.nn.Module:
    """What `attend` asks of a model's attention module."""
    module = torch.nn.Module()
    module.is_causal = causal  # type: ignore[assignment]
    module.num_key_value_groups = 2  # type: ignore[assignment]
    return module


@pytest.mark.parametrize("tile", [16, 64, 128])
@pytest.mark.parametrize("seed", [1, 2])
def test_results_and_gradients_are_those_of_attention_written_out(kernel: Kernel, tile: int, seed: int) -> None:
    assert largest_gap(Kernel(kernel.library, tile), seed=seed) < LARGEST_GAP


def test_the_number_of_threads_changes_no_bit(kernel: Kernel) -> None:
    q, k, v = (tensor.transpose(1, 2) for tensor in rows(((200, 31, 9), (100, 100, 40))))
    scope = Scope(torch.tensor([(0, 0, 200), (0, 200, 31), (0, 231, 9), (1, 0, 100), (1, 100, 100), (1, 200, 40)]))
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            out, sums = kernel.forward(q, k, v, scope, 0.2)
            found.append((out, sums, *kernel.backward(out, q, k, v, out, sums, scope, 0.2)))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(one, two) for one, two in zip(found[0], other, strict=True))


def test_any_strides_but_the_last(kernel: Kernel) -> None:
    q, k, v = rows(((50, 14),), groups=4)
    scope = Scope(torch.tensor([(0, 0, 50), (0, 50, 14)]))
    lying = [tensor.transpose(1, 2) for tensor in (q, k, v)]
    turned = [tensor.contiguous().transpose(1, 2) for tensor in (q, k, v)]
    joined = torch.cat([tensor.flatten(2) for tensor in lying], dim=-1)
    parts = [part.unflatten(-1, (4, 32)) for part in joined.split(128, dim=-1)]
    found = [kernel.forward(*tensors, scope, 0.2) for tensors in (lying, turned, parts)]
    for out, sums in found[1:]:
        assert torch.equal(out, found[0][0]) and torch.equal(sums, found[0][1])
    assert not kernel.fits(q.transpose(2, 3), k, v) and not kernel.fits(q.float(), k, v)
    assert not kernel.fits(q[..., :31], k[..., :31], v[..., :31])


def test_what_is_not_a_number_is_not_hidden(kernel: Kernel) -> None:
    q, k, v = (tensor.transpose(1, 2).clone() for tensor in rows(((20, 20),)))
    k[0, 3] = float("nan")
    out, _ = kernel.forward(q, k, v, Scope(torch.tensor([(0, 0, 20), (0, 20, 20)])), 0.2)
    assert out[0, 3:20].isnan().all()
    assert not out[0, :3].isnan().any() and not out[0, 20:].isnan().any()
    q, k, v = (tensor.transpose(1, 2).clone() for tensor in rows(((300,),)))
    k[0, :256] = float("nan")  # a whole tile of keys
    out, _ = Kernel(kernel.library, 64).forward(q, k, v, Scope(torch.tensor([(0, 0, 300)])), 0.2)
    assert out.isnan().all()


@pytest.mark.parametrize(
    ("lengths", "window", "causal"),
    [
        pytest.param(((70, 30), (100,)), None, True, id="segments"),
        pytest.param(((70, 30),), 9, True, id="a window"),
        pytest.param(((70, 30), (100,)), None, False, id="both ways"),
        pytest.param(((100,), (100,)), None, True, id="whole rows"),
        pytest.param(((100,), (100,)), None, False, id="whole rows, both ways"),
    ],
)
def test_attention_of_a_model_is_the_same_with_it(
    in_use: Kernel, lengths: Lengths, window: int | None, causal: bool
) -> None:
    module = attention_module(causal=causal)
    results = []
    for kernel in (None, in_use):
        segment_op.use(kernel)
        inputs = [tensor.detach().requires_grad_() for tensor in rows(lengths)]
        mask = None
        if lengths != ((100,), (100,)):
            mask = segment_op.decode(segment_op.encode(lengths, window))
        out, _ = attend(module, inputs[0], inputs[1], inputs[2], mask)
        results.append((out, *torch.autograd.grad(out.float().square().sum(), inputs)))
    for one, two in zip(*results, strict=True):
        assert (one.float() - two.float()).norm() < 0.01 * one.float().norm()


def test_attention_calls_it_only_where_it_can_attend(in_use: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[int] = []
    forward = Kernel.forward
    monkeypatch.setattr(Kernel, "forward", lambda self, *args: called.append(1) or forward(self, *args))
    module = attention_module()
    q, k, v = rows(((24,),))
    attend(module, q, k, v, None)
    assert len(called) == 1
    attend(module, q.float(), k.float(), v.float(), None)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        attend(module, q.float(), k.float(), v.float(), None)
    assert len(called) == 2, "by the precision of the computation, not of the tensors"
    module.train()
    attend(module, q, k, v, None, dropout=0.1)
    attend(module, q, k, v, None, softcap=20.0)
    attend(module, q, k, v, torch.ones(1, 1, 24, 24, dtype=torch.bool))
    attend(module, q[:, :, -1:], k, v, None)
    assert len(called) == 2
    with layout([(10, 14)]):
        mask = make_mask(1, 24, 24, device="cpu")
    attend(module, q, k, v, mask)
    assert len(called) == 3


def test_heads_of_other_widths_have_pytorchs(in_use: Kernel) -> None:
    module = attention_module()
    q, k, v = rows(((24,),))
    for query, key, value in ((q, k, v[..., :16]), (q[..., :31], k[..., :31], v[..., :31])):
        out, _ = attend(module, query, key, value, None)
        wanted = torch.nn.functional.scaled_dot_product_attention(
            query.float(), key.float(), value.float(), is_causal=True, enable_gqa=True
        )
        assert (out.float() - wanted.transpose(1, 2)).norm() < 0.01 * wanted.norm()


def test_where_onednn_is_off_it_is_pytorchs(in_use: Kernel) -> None:
    with torch.backends.mkldnn.flags(enabled=False):
        assert segment_op.own_kernel() is None
    assert segment_op.own_kernel() is in_use


def test_segments_fill_their_rows(in_use: Kernel) -> None:
    q, k, v = (tensor.transpose(1, 2) for tensor in rows(((10, 14),)))
    for lengths in (((10, 13),), ((10, 15),), ((24,), (24,))):
        with pytest.raises(ValueError, match="for 1 rows of 24"):
            segment_op.segment_attention(q, k, v, segment_op.encode(lengths, None), 0.2)
    segment_op.use(None)
    with pytest.raises(ValueError, match="both ways, without our own kernel"):
        segment_op.segment_attention(q, k, v, segment_op.encode(((24,),), None, causal=False), 0.2)


def test_training_goes_on_behind_a_pass_in_inference_mode(in_use: Kernel) -> None:
    module = attention_module()
    for mode in (True, False):
        with torch.inference_mode(mode):
            q, k, v = (tensor.clone() for tensor in rows(((10, 14),)))
            q.requires_grad_(not mode)
            segments = segment_op.decode(segment_op.encode(((10, 14),), None))
            out, _ = attend(module, q, k, v, segments)
    out.float().sum().backward()
    assert q.grad is not None


def test_the_plan_counts_its_time(kernel: Kernel) -> None:
    ours, theirs = (sum(attention_seconds(512, 512, 64, "bfloat16", True, one)) for one in (kernel, None))
    assert 0 < ours < theirs


def test_the_plan_sees_no_mask_where_it_attends(in_use: Kernel) -> None:
    from transformers import BertConfig

    from metier.models.dryrun import DryRun, blank

    config = BertConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64,
        attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    for batch, masked in ((blank(2, 96, window=30), False), (blank(3, 30), True)):
        heads = DryRun(config, adapter="full", kind="encoder", dtype="bfloat16").run(batch).work.heads
        assert heads and all(shape.masked == masked and shape.dtype == "bfloat16" for shape in heads)


def test_what_was_chosen_is_pinned(kernel: Kernel) -> None:
    _, choice = choose("cpu", "bfloat16")
    assert choice.value == f"fused-{kernel.tile}" and "as fast as PyTorch's" in choice.reason
    found, again = choose("cpu", "bfloat16", "fused-128")
    assert found is not None and found.tile == 128 and again.reason == "fused-128 because the run began with it"
    found, again = choose("cpu", "bfloat16", "pytorch")
    assert found is None and again.reason == "pytorch because the run began with it"


def test_a_pin_that_is_none_is_told(kernel: Kernel) -> None:
    found, choice = choose("cpu", "bfloat16", "fused-0")
    assert found is None and choice.reason.startswith("pytorch because there are no tiles of fused-0")


@pytest.mark.parametrize(("device", "dtype"), [("cuda", "bfloat16"), ("cpu", "float32")])
def test_other_devices_and_precisions_have_pytorchs(device: str, dtype: str) -> None:
    found, choice = choose(device, dtype, "fused-64")
    assert found is None and choice.value == "pytorch"
    assert choice.reason.endswith("bfloat16 on a CPU, although the run began with fused-64")


def test_without_a_compiler_it_is_pytorchs(nothing_built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    found, choice = choose("cpu", "bfloat16")
    assert found is None and ("there is no C++ compiler" in choice.reason or "Linux" in choice.reason)
    assert not nothing_built.exists()


def test_a_compiler_that_fails_is_asked_once_per_process(
    kernel: Kernel, nothing_built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "cxx"
    script.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n[ "$1" = --version ] || {{ echo "x: error: no" >&2; exit 1; }}\n'
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("CXX", str(script))
    for _ in range(2):
        found, choice = choose("cpu", "bfloat16")
        assert found is None and choice.reason.endswith("refused the fused kernel (x: error: no)")
    calls = (tmp_path / "calls").read_text().splitlines()
    assert sum(call != "--version" for call in calls) == 1
    assert not list(nothing_built.glob("attention-*/*")), "a full disk, say, is not kept"


def test_a_proof_that_dies_is_a_verdict(
    kernel: Kernel, nothing_built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dying = tmp_path / "python"
    dying.write_text("#!/bin/sh\nkill -ILL $$\n")
    dying.chmod(dying.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(fused_choice.sys, "executable", str(dying))
    found, choice = choose("cpu", "bfloat16")
    assert found is None and "ended with signal 4" in choice.reason
    (verdict,) = nothing_built.glob("attention-*/verdict.json")
    assert "ended with signal 4" in json.loads(verdict.read_text())["unfit"]


def test_a_home_that_cannot_be_written_is_no_reason_to_stop(
    kernel: Kernel, nothing_built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing_built.parent.write_text("a file, not a folder")
    found, choice = choose("cpu", "bfloat16")
    assert found is None and "could not be kept" in choice.reason


def test_what_others_may_write_is_not_run(kernel: Kernel, nothing_built: Path) -> None:
    folder = fused_choice._folder()
    folder.chmod(0o777)
    found, choice = choose("cpu", "bfloat16")
    assert found is None and f"others may write to {folder}" in choice.reason


def test_a_verdict_is_for_the_library_that_was_judged(
    kernel: Kernel, nothing_built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[Path] = []
    monkeypatch.setattr(fused_choice, "_build", lambda to: built.append(to) or shutil.copy(kernel.library._name, to))
    monkeypatch.setattr(fused_choice, "_judge", lambda _: {"tile": 64, "gains": (2.0, 2.0)})
    for damage in ("none", "half of it", "gone"):
        fused_choice._built.cache_clear()  # as in another process
        assert choose("cpu", "bfloat16")[1].value == "fused-64"
        (library,) = nothing_built.glob("attention-*/attention.so")
        if damage != "none":
            library.unlink()  # this process has it loaded: its bytes stay
        if damage == "half of it":
            library.write_bytes(b"half of it")
    assert len(built) == 2, "once, and once more since it was damaged"
    fused_choice._built.cache_clear()
    assert choose("cpu", "bfloat16")[0] is not None and len(built) == 3


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        pytest.param("echo half >&2; exit 1", "failed (half)", id="an exception"),
        pytest.param("echo '{'", "failed (no reason given)", id="half an answer"),
        pytest.param("exit 0", "failed (no reason given)", id="no answer"),
    ],
)
def test_a_proof_that_fails_is_tried_again_another_time(
    answer: str, says: str, kernel: Kernel, nothing_built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "python"
    script.write_text(f"#!/bin/sh\n{answer}\n")
    script.chmod(0o755)
    monkeypatch.setattr(fused_choice.sys, "executable", str(script))
    monkeypatch.setattr(fused_choice, "_build", lambda to: shutil.copy(kernel.library._name, to))
    found, choice = choose("cpu", "bfloat16")
    assert found is None and says in choice.reason
    assert not list(nothing_built.glob("attention-*/verdict.json"))


def test_a_kernel_that_is_wrong_or_slow_is_refused(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from metier.models import fused_proof

    path = kernel.library._name
    monkeypatch.setattr(fused_proof, "_gain", lambda *_: 1.0)
    prove(path)
    assert "no faster" in json.loads(capsys.readouterr().out)["unfit"]
    backward = Kernel.backward
    monkeypatch.setattr(
        Kernel, "backward", lambda self, *args: (backward(self, *args)[0] * 1.05, *backward(self, *args)[1:])
    )
    prove(path)
    assert "off by 0.05" in json.loads(capsys.readouterr().out)["unfit"]


def test_seconds_are_measured_on_the_shape(kernel: Kernel) -> None:
    few, many = (sum(attention_seconds(n, n, 32, "bfloat16", True, kernel)) for n in (64, 512))
    assert many > 4 * few
