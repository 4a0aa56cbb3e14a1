"""Generation does not depend on batching; candidate scores equal the plain forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoModelForCausalLM, BloomConfig, GPT2Config, LlamaConfig, MistralConfig, Qwen2Config

from metier.core.errors import ConfigError, MachineError
from metier.models import score
from metier.models.cache import inference, is_plain, prefill
from metier.models.generate import generate
from metier.models.score import score_prompts

VOCABULARY = 61
COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
CONFIGS = {
    "llama": lambda: LlamaConfig(**COMMON),
    "qwen2": lambda: Qwen2Config(**COMMON, tie_word_embeddings=True),
    "gpt2": lambda: GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=128),
    "mistral-window-6": lambda: MistralConfig(**COMMON, sliding_window=6),
    "bloom-alibi": lambda: BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=4),
}


def build(family: str, attention: str = "sdpa") -> Any:
    torch.manual_seed(0)
    attention = "eager" if family == "bloom-alibi" else attention  # it has no other
    model = AutoModelForCausalLM.from_config(CONFIGS[family](), attn_implementation=attention)
    with torch.no_grad():  # a fresh model is nearly uniform: sharpen it, so that an error shows
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(6.0)
    return model.eval()


def prompts(lengths: Sequence[int], prefix: int = 0) -> list[list[int]]:
    rng = np.random.default_rng(1)
    head = rng.integers(3, VOCABULARY, prefix).tolist()
    return [head + rng.integers(3, VOCABULARY, n).tolist() for n in lengths]


def reference_greedy(model: Any, prompt: list[int], steps: int, stop: set[int]) -> tuple[list[int], float]:
    """No cache, no batch: the whole sequence anew for every token."""
    ids, total = list(prompt), 0.0
    for _ in range(steps):
        with torch.no_grad():
            logprobs = model(input_ids=torch.tensor([ids])).logits[0, -1].log_softmax(-1)
        ids.append(int(logprobs.argmax()))
        total += float(logprobs.max())
        if ids[-1] in stop:
            break
    return ids[len(prompt) :], total


def reference_score(model: Any, prompt: list[int], candidate: list[int]) -> float:
    with torch.no_grad():
        logprobs = model(input_ids=torch.tensor([prompt + candidate])).logits[0].double().log_softmax(-1)
    return sum(float(logprobs[len(prompt) - 1 + i, token]) for i, token in enumerate(candidate))


@pytest.mark.parametrize("family", CONFIGS)
def test_greedy_equals_the_loop_without_cache_and_batch(family: str) -> None:
    model = build(family)
    rows = [*prompts([1, 9, 4, 4, 23, 9, 2]), *prompts([3, 8], prefix=20)]
    rows.append(rows[1])
    stop = {reference_greedy(model, rows[1], 4, set())[0][3]}
    found = generate(model, rows, max_new_tokens=12, stop_ids=stop)
    for row, completion in zip(rows, found, strict=True):
        ids, logprob = reference_greedy(model, row, 12, stop)
        assert list(completion.token_ids) == ids
        assert completion.logprob == pytest.approx(logprob, abs=2e-4)
        assert completion.logprob == pytest.approx(sum(completion.token_logprobs))
        assert completion.finish == ("stop" if ids[-1] in stop else "length")
    assert found[1].finish == "stop" and found[1] == found[-1]


@pytest.mark.parametrize(
    "options", [{"temperature": 0.0}, {"temperature": 0.9}, {"temperature": 1.3, "top_k": 7, "top_p": 0.8}]
)
def test_a_completion_does_not_depend_on_the_rest_of_the_call(options: dict[str, Any]) -> None:
    model = build("llama")
    rows = prompts([5, 17, 3, 5, 11, 30])
    together = generate(model, rows, max_new_tokens=10, seed=4, **options)
    small = generate(model, rows[::-1], max_new_tokens=10, seed=4, batch_tokens=30, **options)[::-1]
    alone = [generate(model, [row], max_new_tokens=10, seed=4, **options)[0] for row in rows]
    assert [c.token_ids for c in together] == [c.token_ids for c in small] == [c.token_ids for c in alone]
    assert [c.logprob for c in together] == pytest.approx([c.logprob for c in alone], abs=1e-4)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_prompts_of_one_length_keep_their_order(family: str) -> None:
    """Prefill once put equally long prompts into the order of a set: each row then answered another one's question."""
    model = build(family)
    rows = prompts([9] * 12)
    together = [c.token_ids for c in generate(model, rows, max_new_tokens=5)]
    alone = [generate(model, [row], max_new_tokens=5)[0].token_ids for row in rows]
    assert len(set(alone)) > 6, "the prompts must differ in their answers for this test to mean something"
    assert together == alone


def test_one_prompt_many_times_gives_different_samples_that_a_seed_repeats() -> None:
    model = build("llama")
    group = [prompts([6])[0]] * 8
    first = generate(model, group, max_new_tokens=8, temperature=2.0, seed=1)
    assert len({c.token_ids for c in first}) == 8
    assert first == generate(model, group, max_new_tokens=8, temperature=2.0, seed=1)
    assert first != generate(model, group, max_new_tokens=8, temperature=2.0, seed=2)


def test_samples_follow_the_filtered_distribution() -> None:
    model = build("gpt2")
    prompt = prompts([6])[0]
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt])).logits[0, -1].double()
    probs = (logits / 3.0).softmax(-1)
    top = probs.sort(descending=True)
    kept = int((top.values.cumsum(0) < 0.7).sum()) + 1
    drawn = generate(model, [prompt] * 2000, max_new_tokens=1, temperature=3.0, top_p=0.7)
    counts = np.bincount([c.token_ids[0] for c in drawn], minlength=VOCABULARY)
    assert set(np.flatnonzero(counts)) <= set(top.indices[:kept].tolist())
    expected = np.zeros(VOCABULARY)
    expected[top.indices[:kept].numpy()] = (top.values[:kept] / top.values[:kept].sum()).numpy() * 2000
    assert np.abs(counts - expected).max() < 5 * np.sqrt(expected.max())
    assert drawn[0].logprob == pytest.approx(float(logits.log_softmax(-1)[drawn[0].token_ids[0]]), abs=1e-4)


def test_text_leaves_the_stop_token_out_and_progress_counts_prompts() -> None:
    model = build("llama")
    rows = prompts([4, 6])
    stop = {reference_greedy(model, rows[0], 3, set())[0][2]}
    seen: list[tuple[int, int]] = []
    found = generate(
        model, rows, max_new_tokens=3, stop_ids=stop, decode=lambda ids: "-".join(map(str, ids)),
        batch_tokens=1, progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    spoken = found[0].token_ids[: -1 if found[0].finish == "stop" else None]
    assert found[0].finish == "stop" and found[0].text == "-".join(map(str, spoken))
    assert seen == [(1, 2), (2, 2)]


def test_training_mode_and_attention_come_back() -> None:
    model = build("gpt2").train()
    model.transformer.h[0].eval()
    generate(model, prompts([3]), max_new_tokens=2)
    assert model.training and model.transformer.h[1].attn.training and not model.transformer.h[0].attn.training
    from transformers import AttentionInterface

    AttentionInterface.register("test-no-mask", lambda *args, **kwargs: pytest.fail("the mask would be lost"))
    model.set_attn_implementation("test-no-mask")
    with inference(model):
        assert model.config._attn_implementation == "sdpa"
    assert model.config._attn_implementation == "test-no-mask"


def test_the_context_window_ends_a_completion_and_refuses_a_prompt_that_fills_it() -> None:
    model = build("gpt2")
    assert generate(model, prompts([126]), max_new_tokens=9)[0].num_tokens == 2
    with pytest.raises(MachineError, match="E400"):
        generate(model, prompts([5, 128]), max_new_tokens=1)


@pytest.mark.parametrize(
    "wrong",
    [{"max_new_tokens": 0}, {"temperature": -1.0}, {"top_p": 0.0}, {"top_k": -2}, {"temperature": float("nan")}],
)
def test_options_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="E270"):
        generate(build("llama"), prompts([3]), **{"max_new_tokens": 1, **wrong})


def test_an_empty_prompt_is_refused() -> None:
    for call in (lambda m: generate(m, [[]], max_new_tokens=1), lambda m: score_prompts(m, [[]], [[1]])):
        with pytest.raises(ConfigError, match="E270"):
            call(build("llama"))


def test_prefill_computes_equal_rows_once_and_masks_the_padding() -> None:
    model = build("llama")
    cache, visible = prefill(model, [[5, 6, 7], [], [5, 6, 7], [8]], pad_id=0)
    assert visible.tolist() == [[True] * 3, [False] * 3, [True] * 3, [True, False, False]]
    keys = cache.layers[0].keys
    assert torch.equal(keys[0], keys[2]) and keys.shape[0] == 4


CANDIDATES = [[7, 8, 9, 2], [7, 8, 2], [7, 5, 9, 2], [11, 2], [12], [7, 8], [], [30, 31, 32, 33, 34, 2]]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", CONFIGS)
def test_scores_equal_the_plain_forward_pass(family: str, attention: str) -> None:
    model = build(family, attention)
    for rows in (prompts([1, 9, 4, 23]), prompts([3, 8, 5], prefix=20)):
        found = score_prompts(model, rows, CANDIDATES)
        expected = [[reference_score(model, row, candidate) for candidate in CANDIDATES] for row in rows]
        np.testing.assert_allclose(found, expected, atol=1e-4)
        np.testing.assert_allclose(score_prompts(model, rows[1:2], CANDIDATES), expected[1:2], atol=1e-4)
    assert score._proved[model] == is_plain(model) == (family not in ("mistral-window-6", "bloom-alibi"))


@pytest.mark.parametrize("kind", ["cpu", "cuda", "xpu"])
def test_autocast_is_asked_for_where_the_weights_lie(kind: str) -> None:
    """Float32 weights under autocast give bfloat16's roundings, which the tree's proof must allow for."""
    with FakeTensorMode():
        here, elsewhere = torch.empty(2, device=kind), torch.empty(2, device="mps")
    assert not score._in_low_precision(here) and score._in_low_precision(here.bfloat16())
    torch.set_autocast_enabled(kind, True)
    try:
        assert score._in_low_precision(here)
        assert not score._in_low_precision(elsewhere)
    finally:
        torch.set_autocast_enabled(kind, False)


def test_scores_survive_small_budgets(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("llama")
    rows = prompts([4, 12, 7, 2, 9])
    whole = score_prompts(model, rows, CANDIDATES * 12)
    monkeypatch.setattr(score, "LOGIT_VALUES", 40 * VOCABULARY)
    monkeypatch.setattr(score, "TREE_TOKENS", 50)
    np.testing.assert_allclose(score_prompts(model, rows, CANDIDATES * 12), whole, atol=1e-5)


def test_a_model_on_which_the_tree_fails_its_proof_takes_the_slow_path(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("llama")
    monkeypatch.setattr(score, "_score_by_tree", lambda *args: np.full((1, 3), -1.0))
    row = prompts([6])[0]
    expected = [reference_score(model, row, candidate) for candidate in CANDIDATES]
    np.testing.assert_allclose(score_prompts(model, [row], CANDIDATES), [expected], atol=1e-4)
