"""Reports as evaluation makes them, for the tests of report, chart and card: `make_report(kind)`."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import pytest

from metier.evaluation.report import render
from metier.evaluation.result import (
    Calibration,
    ClassRow,
    Confusion,
    DataSummary,
    Difference,
    Examples,
    Figure,
    Report,
    Shown,
    SliceRow,
    System,
    TargetResult,
    TrainingSummary,
)

HOSTILE = '<script>alert(1)</script><img src=x onerror="alert(2)">'
AWKWARD = f"{HOSTILE} \x00\x1b[31m\x85 \u202eevil\u202c مرحبا بالعالم 👩‍⚕️🇪🇹 $x^2$ | `code` **bold**\r\nline"


def share(metric: str, label: str, value: float, n: int = 3080, half: float = 0.009, **more: Any) -> Figure:
    """Return a figure in shares with a symmetric interval."""
    return Figure(
        metric=metric, label=label, value=value, low=value - half, high=value + half, n=n, unit="share", **more
    )


def training(steps: int = 600, **more: Any) -> TrainingSummary:
    """Return the summary of a run whose loss falls and whose validation turns late."""
    draw = random.Random(0)
    curve = [
        {
            "step": float(i),
            "loss": 3.2 * math.exp(-i / (steps / 5)) + 0.12 + 0.15 * draw.random(),
            "learning_rate": 2e-4 * math.cos(math.pi / 2 * i / steps),
            "grad_norm": 0.4 + 0.5 * draw.random(),
            "tokens_per_second": 2400 + 400 * draw.random(),
        }
        for i in range(1, steps + 1)
    ]
    validation = [
        {
            "step": float(i),
            "loss": 3.0 * math.exp(-i / (steps / 5)) + 0.3 + 0.0003 * i,
            "accuracy": 0.93 - 0.8 * math.exp(-i / (steps / 4)),
        }
        for i in range(0, steps + 1, max(1, steps // 10))
    ]
    values: dict[str, Any] = {
        "method": "classify",
        "adapter": "lora r=16",
        "steps": steps,
        "epochs": 3.0,
        "examples": 27_000,
        "tokens": 412_300,
        "supervised_tokens": 27_000,
        "padding": 0.041,
        "seconds": 412.7,
        "tokens_per_second": 2610.0,
        "peak_memory_bytes": 1_340_000_000,
        "trainable_parameters": 591_437,
        "total_parameters": 23_301_437,
        "best_step": 480,
        "stopped_early": True,
        "overfitting": "Validation loss turned after step 480 and rose by 0.04; step 480 was kept.",
        "curve": curve,
        "validation_curve": validation,
        "estimate": {"seconds": 390.0, "memory_bytes": 1.28e9, "disk_bytes": 2.1e8},
        "actual": {"seconds": 412.7, "memory_bytes": 1.34e9, "disk_bytes": 2.06e8},
        "choices": {
            "dtype": "bfloat16 because a 1 s matmul probe ran 4.8× faster than float32",
            "learning_rate": "2e-04 because lora on 23 M parameters",
        },
    }
    return TrainingSummary(**values | more)


def classification() -> Report:
    """Return a run on 77 intents, worth it."""
    draw = random.Random(1)
    stems = [
        "card_arrival",
        "lost_or_stolen_card",
        "exchange_rate",
        "pending_transfer",
        "top_up_failed",
        "verify_my_identity",
        "wrong_amount",
    ]
    names = [f"{stem}{'' if i == 0 else f'_{i}'}" for i in range(11) for stem in stems]
    classes = [
        ClassRow(
            label=n,
            n=40,
            precision=min(1, f + 0.02),
            recall=max(0, f - 0.02),
            f1=f,
            base_f1=max(0.0, f - 0.3 - 0.3 * draw.random()),
        )
        for n, f in ((n, 0.78 + 0.21 * draw.random()) for n in names)
    ]
    counts = [[0] * 77 for _ in names]
    for i in range(77):
        counts[i][i] = 35
        counts[i][(i * 7 + 3) % 77] += 3
        counts[i][(i + 1) % 77] += 2
    pairs = [(names[i], names[(i + 1) % 77], 9 - i // 4) for i in range(30)]

    def system(name: str, label: str, role: Any, accuracy: float, seconds: float) -> System:
        figures = [share("accuracy", "Accuracy", accuracy), share("f1", "F1 (macro)", accuracy - 0.004)]
        ece = Figure(
            metric="ece",
            label="Calibration error (ECE)",
            value=0.021 if name == "run" else 0.11,
            low=0.016,
            high=0.12,
            n=3080,
            higher_is_better=False,
            unit="share",
        )
        return System(name=name, label=label, role=role, figures=[*figures, ece], seconds=seconds)

    systems = [
        system("run", "This run", "run", 0.9318, 9.2),
        system("base", "Untouched base (frozen + linear probe)", "base", 0.8911, 31.0),
        system("zero_shot", "Zero-shot label likelihood", "base_candidate", 0.142, 88.0),
        system("majority", "Majority class", "base_candidate", 0.013, 0.0),
        system("tfidf_svm", "TF-IDF + linear SVM", "floor", 0.9140, 4.1),
    ]
    differences = [
        Difference(
            metric="accuracy",
            label="Accuracy",
            other="base",
            delta=0.0407,
            low=0.0312,
            high=0.0503,
            n=3080,
            outcome="better",
        ),
        Difference(
            metric="accuracy",
            label="Accuracy",
            other="tfidf_svm",
            delta=0.0178,
            low=0.0091,
            high=0.0265,
            n=3080,
            outcome="better",
        ),
        Difference(
            metric="f1", label="F1 (macro)", other="base", delta=0.0405, low=0.031, high=0.05, n=3080, outcome="better"
        ),
        Difference(
            metric="ece",
            label="Calibration error (ECE)",
            other="base",
            delta=-0.089,
            low=-0.1,
            high=-0.07,
            n=3080,
            outcome="better",
        ),
    ]
    bins = [
        {
            "low": i / 10,
            "high": (i + 1) / 10,
            "confidence": i / 10 + 0.05,
            "accuracy": max(0.0, i / 10 + 0.05 - 0.02 * (9 - i)),
            "n": float(10 + 2**i),
        }
        for i in range(3, 10)
    ]
    slices = [
        SliceRow(
            column="language",
            value=v,
            n=n,
            metric="accuracy",
            figure=f,
            low=None if f is None else f - 0.03,
            high=None if f is None else f + 0.03,
            base=None if f is None else f - 0.05,
            note="" if f else "insufficient",
        )
        for v, n, f in (("English", 2410, 0.941), ("Deutsch", 512, 0.902), ("العربية", 131, 0.861), ("አማርኛ", 27, None))
    ]
    text = "I still have not received my new card, I ordered it over a week ago and nobody answers."
    shown = [
        Shown(
            id=f"{i:016x}",
            place=f"test.csv:{100 + i}",
            prompt=text,
            reference=names[i],
            run=names[i + 1] if i % 3 else names[i],
            base=names[i + 2],
            run_score=0.0 if i % 3 else 1.0,
            base_score=0.0,
            why="confident and wrong" if i % 3 else "",
        )
        for i in range(10)
    ]
    return Report(
        metier_version="0.1.0",
        created="2026-08-01T09:30:00.000Z",
        run="0012-7f3a",
        name="support-triage",
        description="Route a bank customer's message to one of 77 intents",
        task="classify",
        verdict="worth_it",
        sentence="Worth it: accuracy 93.2 % (92.3–94.1) on 3,080 held-out rows, 4.1 points above the untouched base "
        "(3.1 to 5.0) and 1.8 above TF-IDF + linear SVM.",
        primary_metric="accuracy",
        targets=[
            TargetResult(name="accuracy", condition=">= 0.92", value=0.9318, met=True),
            TargetResult(name="ece", condition="<= 0.02", value=0.021, met=False),
            TargetResult(name="gain_over_base.accuracy", condition=">= 0.03", value=0.0407, met=True),
            TargetResult(name="rouge_l", condition=">= 0.3", value=None, met=None, note="not a figure of this task"),
        ],
        systems=systems,
        differences=differences,
        classes=classes,
        confusion=Confusion(labels=names, counts=counts, top_pairs=pairs),
        calibration=Calibration(ece=0.021, brier=0.104, bins=bins, base_ece=0.11),
        slices=slices,
        forgetting=[
            Difference(
                metric="bits_per_byte",
                label="Bits per byte of general text",
                other="base",
                delta=0.013,
                low=0.004,
                high=0.022,
                n=400,
                outcome="worse",
            )
        ],
        forgetting_note="Measured on 400 paragraphs of encyclopaedic English.",
        examples=Examples(worst=shown, changed=shown[::-1], random=shown[2:8]),
        data=DataSummary(
            dataset="data:support@v3",
            digest="9f2c1a" * 10,
            rows={"train": 9002, "validation": 1001, "test": 3080},
            quarantined=14,
            quarantine_reasons={"empty-text": 9, "not-utf8": 5},
            cut_rows={"train": 1212, "validation": 1},
            dropped_rows={"train": 0, "validation": 0},
            leaks={"exact": 25, "near": 77},
            leak_free_figures=[share("accuracy", "Accuracy", 0.9302, n=2978)],
            leak_free_others={
                "base": [share("accuracy", "Accuracy", 0.8874, n=2978)],
                "tfidf_svm": [share("accuracy", "Accuracy", 0.9113, n=2978)],
            },
            steps=[
                {"name": "clean", "rows_in": 13_097, "rows_out": 13_097, "note": "212 texts changed"},
                {"name": "deduplicate", "rows_in": 13_097, "rows_out": 13_083, "note": "14 exact"},
            ],
            sources=[
                {
                    "path": "data/train.csv",
                    "split": "train",
                    "rows": 10_003,
                    "format": "labelled",
                    "license": "CC-BY-4.0",
                    "basis": "legitimate-interest",
                },
                {
                    "path": "data/test.csv",
                    "split": "test",
                    "rows": 3080,
                    "format": "labelled",
                    "license": None,
                    "basis": None,
                },
            ],
            labels={n: 35 + (i * 37) % 150 for i, n in enumerate(names)},
        ),
        training=training(),
        parity={
            "reload": {
                "checkpoint": "step-000480",
                "recorded_loss": 0.3123,
                "reloaded_loss": 0.3121,
                "largest_difference": 0.0002,
                "tolerance": 0.02,
                "passed": True,
            },
            "export": {"form": "peft", "max_logprob_difference": 8.4e-6, "passed": True},
        },
        reproduce={
            "train": "metier train recipes/support.yaml",
            "recipe": "sha256:4d7a" + "0" * 60,
            "evaluate": "metier evaluate 12",
        },
        base_model={
            "name": "sentence-transformers/all-MiniLM-L6-v2",
            "license": "Apache-2.0",
            "parameters": 22_713_216,
            "digest": "53aa51" * 10,
        },
        limits=[
            "One test set from one bank; other banks' customers may write differently.",
            "Confidence is calibrated on this language mix only.",
        ],
    )


def summarisation() -> Report:
    """Return a run on doctor–patient dialogues, worse than its base, with long texts."""
    dialogue = "\n".join(
        f"Doctor: How long have you had the pain, and does it move to the back ({i})?\n"
        f"Patient: Since Tuesday, mostly at night."
        for i in range(60)
    )
    reference = (
        "The patient is a 45-year-old woman with abdominal pain since Tuesday, worse at night, without radiation. "
        "No fever, no vomiting."
    )
    run = (
        "The patient is a 54-year-old woman with abdominal pain since Tuesday, worse at night, "
        "radiating to the back. No fever."
    )
    shown = [
        Shown(
            id=f"{i:016x}",
            place=f"mts.csv:{i}",
            prompt=dialogue,
            reference=reference,
            run=run,
            base="She has pain.",
            run_score=0.61,
            base_score=0.2,
            why="wrong age",
        )
        for i in range(12)
    ]

    def figures(rouge: float, perplexity: float) -> list[Figure]:
        return [
            Figure(
                metric="rouge_l", label="ROUGE-L", value=rouge, low=rouge - 0.02, high=rouge + 0.02, n=200, unit="share"
            ),
            Figure(
                metric="perplexity",
                label="Perplexity",
                value=perplexity,
                low=perplexity - 1,
                high=perplexity + 1.2,
                n=200,
                higher_is_better=False,
            ),
        ]

    return classification().model_copy(
        update={
            "name": "visit-notes",
            "task": "summarize",
            "description": "Summarise a visit for the record",
            "primary_metric": "rouge_l",
            "verdict": "worse",
            "sentence": "Worse: ROUGE-L 21.4 % is 3.2 points below the untouched base (−5.1 to −1.4) "
            "on 200 held-out dialogues.",
            "targets": [],
            "classes": [],
            "confusion": None,
            "calibration": None,
            "slices": [],
            "systems": [
                System(name="run", label="This run", role="run", figures=figures(0.214, 18.2), seconds=80),
                System(name="base", label="Untouched base", role="base", figures=figures(0.246, 16.1), seconds=82),
                System(
                    name="nearest_neighbour",
                    label="Nearest-neighbour summary",
                    role="floor",
                    figures=figures(0.201, 0)[:1],
                    seconds=0.4,
                ),
            ],
            "differences": [
                Difference(
                    metric="rouge_l",
                    label="ROUGE-L",
                    other="base",
                    delta=-0.032,
                    low=-0.051,
                    high=-0.014,
                    n=200,
                    outcome="worse",
                )
            ],
            "examples": Examples(worst=shown, random=shown[:3]),
            "training": training(90, method="sft", overfitting="none", stopped_early=False),
            "data": classification().data.model_copy(
                update={
                    "labels": {},
                    "leaks": {},
                    "leak_free_figures": [],
                    "leak_free_others": {},
                    "rows": {"train": 901, "validation": 100, "test": 200},
                }
            ),
        }
    )


def pretraining() -> Report:
    """Return a continued pre-training run with the least a report can hold, too small to judge."""
    return Report(
        metier_version="0.1.0",
        created="2026-08-01T09:30:00.000Z",
        run="0001-0000",
        name="books",
        task="continue",
        verdict="insufficient",
        sentence="Not enough evidence: 12 held-out rows.",
        primary_metric="bits_per_byte",
        systems=[
            System(
                name="run",
                label="This run",
                role="run",
                figures=[
                    Figure(
                        metric="bits_per_byte",
                        label="Bits per byte",
                        value=1.4213,
                        n=12,
                        higher_is_better=False,
                        unit="bits/byte",
                    ),
                    Figure(metric="perplexity", label="Perplexity", value=None, n=12, note="no interval below 30 rows"),
                ],
            )
        ],
        differences=[],
        data=DataSummary(dataset="data:books@v1", digest="ab" * 32, rows={"train": 80, "test": 12}),
        training=TrainingSummary(
            method="cpt",
            adapter="full",
            steps=3,
            epochs=1.0,
            examples=80,
            tokens=0,
            supervised_tokens=0,
            padding=0.0,
            seconds=2.0,
            tokens_per_second=0.0,
            peak_memory_bytes=0,
            trainable_parameters=0,
            total_parameters=0,
            best_step=3,
            stopped_early=False,
            overfitting="none",
        ),
    )


def hostile() -> Report:
    """Return the classification report with awkward text wherever text from outside can stand."""
    report = classification()
    shown = [
        Shown(
            id=HOSTILE,
            place=AWKWARD,
            prompt=AWKWARD * 3,
            reference=AWKWARD,
            run=AWKWARD.replace("evil", "good"),
            base=AWKWARD,
            why=HOSTILE,
        )
    ]
    names = [AWKWARD, HOSTILE, "日本語のラベル", "שלום"]
    return report.model_copy(
        update={
            "name": AWKWARD,
            "description": AWKWARD,
            "sentence": AWKWARD,
            "limits": [AWKWARD],
            "forgetting_note": HOSTILE,
            "parity": {HOSTILE: {HOSTILE: AWKWARD}},
            "reproduce": {HOSTILE: AWKWARD},
            "base_model": {"name": HOSTILE, HOSTILE: AWKWARD},
            "examples": Examples(worst=shown, changed=shown, random=shown),
            "systems": [s.model_copy(update={"label": AWKWARD}) for s in report.systems],
            "classes": [ClassRow(label=n, n=5, precision=0.5, recall=0.5, f1=0.5) for n in names],
            "confusion": Confusion(labels=names, counts=[[1] * 4] * 4, top_pairs=[(names[0], names[1], 3)]),
            "slices": [
                SliceRow(column=HOSTILE, value=n, n=200, metric=HOSTILE, figure=0.5, note=AWKWARD) for n in names
            ],
            "data": report.data.model_copy(
                update={
                    "dataset": HOSTILE,
                    "labels": dict.fromkeys(names, 3),
                    "sources": [{"path": AWKWARD, HOSTILE: HOSTILE}],
                    "quarantine_reasons": {HOSTILE: 2},
                    "steps": [{"name": HOSTILE, "note": AWKWARD}],
                }
            ),
            "training": training(20, method=HOSTILE, overfitting=AWKWARD, choices={HOSTILE: AWKWARD}),
        }
    )


KINDS: dict[str, Callable[[], Report]] = {
    "classification": classification,
    "summarisation": summarisation,
    "pretraining": pretraining,
    "hostile": hostile,
}


@pytest.fixture
def make_report() -> Callable[[str], Report]:
    """Return the maker of a report by kind: classification, summarisation, pretraining or hostile."""
    return lambda kind: KINDS[kind]()


@pytest.fixture(scope="session")
def page_of() -> Callable[[Report], str]:
    """Return a `render` that makes the page of equal reports once per session."""
    made: dict[str, str] = {}

    def render_once(report: Report) -> str:
        key = report.model_dump_json()
        if key not in made:
            made[key] = render(report)
        return made[key]

    return render_once


@pytest.fixture(params=sorted(KINDS))
def any_report(request: pytest.FixtureRequest) -> Report:
    """Return each of the reports in turn."""
    return KINDS[request.param]()
