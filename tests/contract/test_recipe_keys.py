"""Every key of a recipe, and every option of a plug-in, has an effect that a user would see (an option that nothing
reads is a defect). A key without an entry fails, and so does an entry whose key is gone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import pytest
import torch

from contract import recipe_probes as see
from contract.recipe_probes import COMMITS, WRITER, Desk, Probe
from metier.core.catalog import PACKAGES, catalog, type_of
from metier.core.extras import installed
from metier.core.recipe import describe


@dataclass(frozen=True)
class Effect:
    """What each value of a key makes visible; with any two of them the probe must not see the same.

    `beside` is what else the recipe says, `options` what else the plug-in is told, `refused` the codes of errors that
    count as seen: any other error fails the test. `needs` is the optional package without which nothing can be seen.
    """

    probe: Probe
    values: tuple[Any, ...]
    beside: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    refused: tuple[str, ...] = ()
    needs: str = ""


STATED = {
    "gates.permission": "required",
    "data.sources.0.permission": {
        "license": "MIT",
        "basis": "contract",
        "purpose": ["training"],
        "personal_data": False,
    },
}
"""All that the permission gate asks of a source."""
TWO_SOURCES = {"data.sources": [{"path": "data/more.jsonl"}, {"path": "data/chats.jsonl", "split": "train"}]}
LEAKY = {"data.sources": [{"path": "data/leaky.jsonl"}, {"path": "data/held.jsonl", "split": "test"}]}
"""Rows that share runs of words with each other, with given test rows, and with data/exam.jsonl."""
VERBOSE = {"data.sources.0.path": "data/verbose.jsonl", "data.split": {"validation": 0.0, "test": 0.0}}
TERSE = {"data.sources.0.path": "data/terse.jsonl", "data.split": {"validation": 0.0, "test": 0.0}}
"""Rows with what the filters look for, all of them in train."""
TONGUES = {"data.sources.0.path": "data/tongues.jsonl", "data.split": {"validation": 0.0, "test": 0.0}}
UNEVEN = {"data.sources.0.path": "data/uneven.jsonl"}
MISLABELLED = {"data.sources.0.path": "data/mislabelled.jsonl"}
TEN_STEPS = {"training.max_steps": 10}
EVERY_STEP = {"evaluation.every_steps": 1}
ON = (True, False)

KEYS: dict[str, Effect] = {
    "version": Effect(see.accepted, (1, 2), refused=("E206",)),
    "name": Effect(see.folders, ("desk", "shelf")),
    "objective.task": Effect(
        see.figures,
        ("chat", "classify", "summarize", "translate", "extract", "generate", "continue"),
        {"method.kind": "sft"},
        refused=("E243",),
    ),
    "objective.description": Effect(see.prose, ("", "Sorts envelopes.")),
    "objective.targets": Effect(see.targets_met, ({}, {"accuracy": ">= 0"}, {"accuracy": "> 1"})),
    # ── data
    "data.dataset": Effect(
        see.rows_of_a_version, ("data:letters@v1", "data:chats@v1"), {"data.sources": [], "data.split": {}}
    ),
    "data.sources[].path": Effect(see.rows, ("data/letters.jsonl", "data/chats.jsonl")),
    "data.sources[].split": Effect(see.rows, ("train", "validation", "test", "auto"), TWO_SOURCES),
    "data.sources[].format": Effect(see.rows, ("auto", "text")),
    "data.sources[].map": Effect(see.rows, ({}, {"text": "note"})),
    "data.sources[].limit": Effect(see.rows, (None, 20)),
    "data.sources[].permission.license": Effect(see.statements, (None, "MIT", "CC-BY-4.0"), STATED, refused=("E601",)),
    "data.sources[].permission.basis": Effect(
        see.statements, (None, "contract", "consent"), STATED, refused=("E601", "E605")
    ),
    "data.sources[].permission.consent_id": Effect(
        see.statements, (None, "c-1"), {"data.sources.0.permission": {"basis": "consent"}}, refused=("E605",)
    ),
    "data.sources[].permission.consent_expires": Effect(
        see.statements, ("2001-01-01", "2999-12-31"), STATED, refused=("E603",)
    ),
    "data.sources[].permission.consent_withdrawn": Effect(
        see.statements, ("2001-01-01", "2999-12-31"), STATED, refused=("E606",)
    ),
    "data.sources[].permission.purpose": Effect(
        see.statements, ([], ["training"], ["evaluation"]), STATED, refused=("E601", "E602")
    ),
    "data.sources[].permission.retention": Effect(
        see.statements, ("2001-01-01", "2999-12-31"), STATED, refused=("E604",)
    ),
    "data.sources[].permission.personal_data": Effect(see.statements, (None, True, False), STATED, refused=("E601",)),
    "data.sources[].permission.subject_key": Effect(
        see.rows, (None, "person"), {"data.sources.0.map": {"prompt": "person", "completion": "note"}}
    ),
    "data.prompt.system": Effect(see.tokens, (None, "Be brief."), WRITER),
    "data.prompt.user": Effect(see.tokens, (None, "A letter: {text}")),
    "data.steps": Effect(see.rows, ([], ["deduplicate"]), {"data.sources.0.path": "data/repeated.jsonl"}),
    "data.split.validation": Effect(see.rows, (0.1, 0.3)),
    "data.split.test": Effect(see.rows, (0.1, 0.3)),
    "data.split.group_by": Effect(see.rows, (None, "person")),
    "data.split.time_by": Effect(see.rows, (None, "day")),
    "data.split.stratify": Effect(see.rows, ON, {"data.sources.0.path": "data/uneven.jsonl"}),
    "data.split.near_duplicates": Effect(see.rows, (0.5, 1.0), {"data.sources.0.path": "data/repeated.jsonl"}),
    "data.split.seed": Effect(see.rows, (0, 1)),
    "data.canaries.num": Effect(see.rows, (0, 2, 3), {"data.sources.0.path": "data/repeated.jsonl"}),
    "data.canaries.repeats": Effect(
        see.rows, ([1], [1, 2]), {"data.sources.0.path": "data/repeated.jsonl", "data.canaries.num": 2}
    ),
    "data.max_quarantine": Effect(see.rows, (0.05, 0.5), {"data.sources.0.path": "data/bad.jsonl"}, refused=("E310",)),
    # ── model
    "model.name_or_path": Effect(see.weights, ("base", "other")),
    "model.revision": Effect(see.weights, COMMITS, {"model.name_or_path": "org/small"}),
    "model.dtype": Effect(see.weights, ("float32", "bfloat16")),
    "model.device": Effect(see.device, ("cpu", "cuda"), refused=("E410",)),
    "model.chat_template": Effect(
        see.tokens,
        (None, "chatml", "plain", "data/letters.jinja"),
        {**WRITER, "model.name_or_path": "bare"},
        refused=("E240",),
    ),
    "adapter": Effect(see.trains, tuple({"kind": kind} for kind in catalog("adapters").names())),
    "method": Effect(see.tokens, tuple({"kind": kind} for kind in catalog("methods").names()), refused=("E243",)),
    # ── training
    "training.num_train_epochs": Effect(see.examples, (0.5, 1), {"training.max_steps": None}),
    "training.max_steps": Effect(see.examples, (2, 3, None)),
    "training.optimizer": Effect(see.weights, ("adamw", "muon")),
    "training.learning_rate": Effect(see.learning_rates, ("auto", 1e-3, 3e-3)),
    "training.lr_scheduler_type": Effect(see.learning_rates, ("cosine", "linear", "constant", "wsd"), TEN_STEPS),
    "training.warmup_ratio": Effect(see.learning_rates, (0.0, 0.5)),
    "training.weight_decay": Effect(see.weights, (0.0, 0.5)),
    "training.adam_beta1": Effect(see.weights, (0.5, 0.9)),
    "training.adam_beta2": Effect(see.weights, (0.9, 0.999)),
    "training.adam_epsilon": Effect(see.weights, (1e-8, 1e-2)),
    "training.max_grad_norm": Effect(see.weights, (0.0, 1e-3)),
    "training.batch_size": Effect(see.examples, (4, 6)),
    "training.micro_batch_tokens": Effect(see.passes, (32, 4096)),
    "training.max_length": Effect(see.tokens, (8, 64)),
    "training.truncation": Effect(
        see.tokens, ("error", "left", "right", "drop"), {"training.max_length": 12}, refused=("E357",)
    ),
    "training.packing": Effect(see.passes, ON),
    "training.cache_frozen": Effect(
        see.kept_states, ON, {"adapter.kind": "none", "training.max_steps": None, "training.num_train_epochs": 5}
    ),
    "training.torch_compile": Effect(see.compiled, ON, WRITER, refused=("E279",)),
    "training.early_stopping_patience": Effect(
        see.evaluations, (0, 1), {**EVERY_STEP, **TEN_STEPS, "training.learning_rate": 1e-12}
    ),
    "training.save_steps": Effect(
        see.checkpoints, (1, 2, "auto"), {"evaluation.every_steps": 4, "training.save_total_limit": 9}
    ),
    "training.save_total_limit": Effect(see.checkpoints, (1, 3), {"training.save_steps": 1}),
    "training.num_threads": Effect(see.threads, (1, 2)),
    "training.seed": Effect(see.weights, (0, 1)),
    # ── evaluation
    "evaluation.metrics": Effect(see.figures, ("auto", ["ece"], ["accuracy", "brier"])),
    "evaluation.baseline": Effect(see.systems, ON),
    "evaluation.slices": Effect(see.slices, ([], ["team"])),
    "evaluation.every_steps": Effect(see.evaluations, (1, 2)),
    "evaluation.max_new_tokens": Effect(see.answers, (2, 4), WRITER),
    "evaluation.max_examples": Effect(see.num_scored, (None, 3), WRITER),
    "evaluation.bootstrap_samples": Effect(see.intervals, (100, 500)),
    "evaluation.confidence": Effect(see.intervals, (0.6, 0.95)),
    # ── gates
    "gates.parity": Effect(see.exported, ("required", "optional"), WRITER, refused=("E436",)),
    "gates.permission": Effect(see.accepted, ("required", "optional"), refused=("E601",)),
}

OPTIONS: dict[str, Effect] = {
    "adapter.layers.num_layers": Effect(see.trains, (1, 2)),
    "adapter.lora.r": Effect(see.trains, (2, 4)),
    "adapter.lora.lora_alpha": Effect(see.weights, (4.0, 32.0)),
    "adapter.lora.lora_dropout": Effect(see.weights, (0.0, 0.5)),
    "adapter.lora.target_modules": Effect(see.trains, ("all-linear", ["q_proj"], ".*mlp.*")),
    "adapter.lora.layers_to_transform": Effect(see.trains, (None, [1])),
    "adapter.lora.use_rslora": Effect(see.weights, ON),
    "adapter.lora.use_dora": Effect(see.trains, ON),
    "adapter.lora.init_lora_weights": Effect(see.weights, ("kaiming", "gaussian")),
    "method.classify.problem_type": Effect(
        see.losses, ("single_label", "multi_label", "regression"), {"data.sources.0.path": "data/numbers.jsonl"}
    ),
    "method.classify.pooling": Effect(see.weights, ("last", "mean", "cls")),
    "method.classify.hidden_layers": Effect(see.trains, (0, 1)),
    "method.classify.head_dropout": Effect(see.weights, (0.0, 0.5)),
    "method.classify.label_smoothing": Effect(see.weights, (0.0, 0.2)),
    "method.classify.calibrate": Effect(
        see.temperature, ON, {"data.sources.0.path": "data/many.jsonl", "data.split.validation": 0.4}
    ),
    "method.classify.head_learning_rate_multiplier": Effect(see.weights, (1.0, 10.0)),
    "method.sft.assistant_only_loss": Effect(see.tokens, ON, WRITER),
    "data.steps.balance.by": Effect(
        see.rows, ("label", "column", "language"), TONGUES, refused=("E211",), needs="lingua"
    ),
    "data.steps.balance.column": Effect(see.rows, ("team", "person"), UNEVEN, {"by": "column"}),
    "data.steps.balance.resample": Effect(see.rows, ("down", "up"), UNEVEN),
    "data.steps.balance.ratio": Effect(see.rows, (1, 2), UNEVEN),
    "data.steps.balance.max_repeats": Effect(see.rows, (2, 3), UNEVEN, {"resample": "up"}),
    "data.steps.balance.seed": Effect(see.rows, (0, 1), UNEVEN),
    "data.steps.clean.unicode": Effect(see.rows, ("NFC", "NFKC", "keep"), {"data.sources.0.path": "data/dirty.jsonl"}),
    "data.steps.clean.whitespace": Effect(
        see.rows, ("trim", "collapse", "keep"), {"data.sources.0.path": "data/dirty.jsonl"}
    ),
    "data.steps.clean.control_characters": Effect(see.rows, ON, {"data.sources.0.path": "data/dirty.jsonl"}),
    "data.steps.clean.html": Effect(see.rows, ("keep", "strip", "main"), {"data.sources.0.path": "data/pages.jsonl"}),
    "data.steps.clean.repair_encoding": Effect(see.rows, ON, {"data.sources.0.path": "data/pages.jsonl"}, needs="ftfy"),
    "data.steps.decontaminate.against": Effect(see.rows, ([], ["data/exam.jsonl"]), LEAKY),
    "data.steps.decontaminate.splits": Effect(see.rows, (["test"], ["validation"], ["test", "validation"]), LEAKY),
    "data.steps.decontaminate.num_words": Effect(see.rows, (5, 13), LEAKY),
    "data.steps.decontaminate.common_rows": Effect(see.rows, (1, 10), LEAKY),
    "data.steps.decontaminate.threshold": Effect(see.rows, (0.5, 1.0), LEAKY),
    "data.steps.deduplicate.match": Effect(see.rows, ("exact", "near"), {"data.sources.0.path": "data/repeated.jsonl"}),
    "data.steps.deduplicate.threshold": Effect(
        see.rows, (0.5, 0.9), {"data.sources.0.path": "data/repeated.jsonl"}, {"match": "near"}
    ),
    "data.steps.filter_language.languages": Effect(see.rows, (["en"], ["de"], ["en", "de"]), VERBOSE, needs="lingua"),
    "data.steps.filter_language.min_confidence": Effect(
        see.rows, (0.2, 0.9), VERBOSE, {"languages": ["en"], "min_letters": 1}, needs="lingua"
    ),
    "data.steps.filter_language.min_letters": Effect(see.rows, (40, 1), VERBOSE, {"languages": ["en"]}, needs="lingua"),
    "data.steps.filter_quality.max_repeated_lines": Effect(see.rows, (None, 0.3), VERBOSE),
    "data.steps.filter_quality.max_repeated_words": Effect(see.rows, (None, 0.3), VERBOSE),
    "data.steps.filter_quality.max_symbols": Effect(see.rows, (None, 0.4), VERBOSE),
    "data.steps.filter_quality.max_boilerplate": Effect(see.rows, (None, 0.2), VERBOSE),
    "data.steps.filter_quality.truncated_words": Effect(see.rows, (None, 15), VERBOSE),
    "data.steps.filter_quality.refusal_characters": Effect(see.rows, (10, 200), TERSE),
    "data.steps.filter_quality.max_same_answers": Effect(see.rows, (1, 2, None), TERSE),
    "data.steps.label_issues.drop": Effect(see.rows, (0, 1), MISLABELLED),
    "data.steps.label_issues.folds": Effect(see.reviews, (2, 5), MISLABELLED),
    "data.steps.label_issues.seed": Effect(see.reviews, (0, 1), MISLABELLED),
    "data.steps.deidentify.profile": Effect(
        see.rows, ("hipaa-safe-harbor", "gdpr"), {"data.sources.0.path": "data/people.jsonl"}
    ),
    "data.steps.deidentify.strategy": Effect(
        see.rows, ("tag", "mask", "surrogate"), {"data.sources.0.path": "data/people.jsonl"}, refused=("E450",)
    ),
    "data.steps.deidentify.columns": Effect(
        see.rows,
        ({}, {"age": "drop"}, {"age": "tens"}, {"age": "OTHER_ID"}),
        {"data.sources.0.path": "data/people.jsonl"},
    ),
    "data.steps.deidentify.quasi_identifiers": Effect(
        see.alike, ([], ["sex"], ["sex", "age"]), {"data.sources.0.path": "data/people.jsonl"}
    ),
    "data.steps.deidentify.detectors": Effect(
        see.rows, ([], ["presidio"]), {"data.sources.0.path": "data/citizens.jsonl"}, refused=("E450",)
    ),
    "data.steps.redact_secrets.min_entropy": Effect(
        see.rows, (3.0, 4.5), {"data.sources.0.path": "data/secrets.jsonl"}
    ),
    "data.steps.filter_length.min_characters": Effect(see.rows, (None, 25), options={"max_characters": 60}),
    "data.steps.filter_length.max_characters": Effect(see.rows, (None, 50), options={"min_characters": 25}),
    "evaluation.metrics.ece.bins": Effect(see.figure_of_answers, (2, 15)),
    "evaluation.metrics.exact_match.ignore_case": Effect(see.figure_of_answers, ON),
    "evaluation.metrics.f1.average": Effect(see.figure_of_answers, ("macro", "micro", "weighted")),
    "evaluation.metrics.json_valid.object_only": Effect(see.figure_of_answers, ON),
    "evaluation.metrics.precision.average": Effect(see.figure_of_answers, ("macro", "micro", "weighted")),
    "evaluation.metrics.recall.average": Effect(see.figure_of_answers, ("macro", "micro")),
    "evaluation.metrics.regex_match.pattern": Effect(see.figure_of_answers, ("^[a-z]+$", "^[a-zA-Z]+$")),
    "evaluation.metrics.rouge.variant": Effect(see.figure_of_answers, ("1", "2", "L")),
}

TABLE = {**KEYS, **OPTIONS}
SAME_BY_DEFINITION = {"evaluation.metrics.recall.average": {"weighted"}}
"""Values that cannot differ from another one: recall weighted by the rows of each label is the share of right rows."""
PLACES = {"adapters": "adapter", "methods": "method", "steps": "data.steps", "metrics": "evaluation.metrics"}
"""Catalog → where a recipe names its plug-ins. A format has none: its rows say everything."""


def _options() -> dict[str, str]:
    """Return the type of every option of every plug-in, as `adapter.lora.r`."""
    found = {}
    for name in PACKAGES:
        for kind in catalog(name).names():
            schema = catalog(name).get(kind).Options.model_json_schema()
            for option, info in schema.get("properties", {}).items():
                found[f"{PLACES.get(name, name)}.{kind}.{option}"] = type_of(info, schema.get("$defs", {}))
    return found


TYPES = {**{key: str(info["type"]) for key, info in describe().items()}, **_options()}


def _changes(key: str, effect: Effect, value: Any) -> dict[str, Any]:
    """Return what gives a key a value."""
    if key in KEYS:
        return {**effect.beside, key.replace("[]", ".0"): value}
    place, kind, option = key.rsplit(".", 2)
    told = {**effect.options, option: value}
    if place == "data.steps":
        return {**effect.beside, place: [{"kind": kind, **told}]}
    if place == "evaluation.metrics":
        return {**effect.beside, place: [f"{kind}:" + ",".join(f"{name}={said}" for name, said in told.items())]}
    return {**effect.beside, f"{place}.kind": kind, **{f"{place}.{name}": said for name, said in told.items()}}


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    import huggingface_hub.constants

    before = torch.get_num_threads()
    made = Desk(tmp_path_factory.mktemp("desk"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(made.folder / "hub"))
        yield made
    torch.set_num_threads(before)


@pytest.mark.parametrize("key", sorted({*TYPES, *TABLE}))
def test_every_value_of_a_key_makes_a_difference(key: str, desk: Desk) -> None:
    assert key in TABLE, f"nothing shows that `{key}` has an effect: give it an entry"
    assert key in TYPES, f"there is no key `{key}` any more: remove its entry"
    effect = TABLE[key]
    if effect.needs and installed(effect.needs) is None:
        pytest.skip(f"the optional package {effect.needs} is not installed")
    seen = [desk.look(effect.probe, _changes(key, effect, value), effect.refused) for value in effect.values]
    assert len(seen) > 1
    for (one, first), (other, second) in combinations(zip(effect.values, seen, strict=True), 2):
        assert first != second, f"{effect.probe.__name__} are the same with `{key}` {one!r} and {other!r}"


@pytest.mark.parametrize("key", sorted(TABLE))
def test_a_key_with_named_values_is_tried_with_each_of_them(key: str) -> None:
    named = set(TYPES[key].split(" | ")) - {"auto", "null", "text", "mapping", "kind with its options"}
    named = {name for name in named if not name.startswith(("int", "float", "list of"))}
    tried = {str(value).lower() if isinstance(value, bool) else str(value) for value in TABLE[key].values}
    tried |= {str(part) for value in TABLE[key].values if isinstance(value, list) for part in value}
    assert named - SAME_BY_DEFINITION.get(key, set()) <= tried


PROBES = sorted({effect.probe for effect in TABLE.values()}, key=lambda probe: probe.__name__)
UNRELATED = {"objective.description": "Another sentence.", "data.max_quarantine": 0.9}
"""Keys that change the digests of a recipe and of a preparation, and nothing that most probes look at."""
RELATED = {see.prose: "objective.description", see.rows_of_a_version: "data.max_quarantine"}
"""The probe that is there for one of them, and the one whose recipe refuses it (E244)."""


@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: probe.__name__)
def test_a_probe_sees_nothing_else(probe: Probe, desk: Desk) -> None:
    """A probe that saw chance, the time, a digest or the recipe's own words would call every key effective."""
    key, effect = next((key, effect) for key, effect in TABLE.items() if effect.probe is probe)
    changes = _changes(key, effect, effect.values[0])
    other = {name: value for name, value in UNRELATED.items() if name != RELATED.get(probe)}
    assert desk.look(probe, changes, effect.refused) == desk.look(probe, {**changes, **other}, effect.refused)
