"""Our figures against the libraries that people compare with."""

from __future__ import annotations

import unicodedata

import numpy as np
import pytest
import sklearn.metrics

from metier.core.errors import ConfigError
from metier.metrics import Prediction, metric

RNG = np.random.default_rng(3)
LABELS = [f"c{k}" for k in range(6)]


def classified(n: int = 300) -> list[Prediction]:
    truth = RNG.choice(LABELS[:5], n, p=[0.5, 0.2, 0.15, 0.1, 0.05])  # c5 is offered and never right
    logits = RNG.normal(size=(n, 6))
    logits[np.arange(n), [LABELS.index(t) for t in truth]] += 1.2
    probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return [
        Prediction(
            id=str(k),
            reference=str(truth[k]),
            output=LABELS[int(p.argmax())],
            confidence=float(p.max()),
            label_probs=dict(zip(LABELS, map(float, p), strict=True)),
        )
        for k, p in enumerate(probs)
    ]


ROWS = classified()
TRUTH, SAID = [p.reference for p in ROWS], [p.output for p in ROWS]


@pytest.mark.parametrize("average", ["macro", "micro", "weighted"])
@pytest.mark.parametrize("name", ["precision", "recall", "f1"])
def test_classification_equals_sklearn(name: str, average: str) -> None:
    reference = getattr(sklearn.metrics, f"{name}_score")(TRUTH, SAID, average=average, zero_division=0)
    assert metric(f"{name}:average={average}").value(ROWS) == pytest.approx(reference, abs=1e-12)


def test_several_labels_equal_sklearn() -> None:
    truth = RNG.random((200, 6)) < 0.3
    said = truth ^ (RNG.random((200, 6)) < 0.2)
    rows = [
        Prediction(
            id=str(k),
            reference=tuple(np.array(LABELS)[t]),
            output=tuple(np.array(LABELS)[s]),
            label_probs=dict(zip(LABELS, s.astype(float), strict=True)),
        )
        for k, (t, s) in enumerate(zip(truth, said, strict=True))
    ]
    for average in ("macro", "micro"):
        reference = sklearn.metrics.f1_score(truth, said, average=average, zero_division=0)
        assert metric(f"f1:average={average}").value(rows) == pytest.approx(reference, abs=1e-12)
    assert metric("accuracy").value(rows) == pytest.approx((truth == said).all(1).mean())
    assert metric("brier").value(rows) == pytest.approx(((truth - said.astype(float)) ** 2).mean())


def test_brier_equals_sklearn() -> None:
    probs = np.array([list(p.label_probs.values()) for p in ROWS])
    reference = sklearn.metrics.brier_score_loss(TRUTH, probs, labels=LABELS, scale_by_half=False)
    assert metric("brier").value(ROWS) == pytest.approx(reference, abs=1e-12)


def test_ece_by_hand() -> None:
    confidence = np.array([p.confidence for p in ROWS])
    right = np.array([p.correct for p in ROWS], float)
    bins = np.minimum((confidence * 10).astype(int), 9)
    by_hand = sum(
        (bins == b).mean() * abs(confidence[bins == b].mean() - right[bins == b].mean()) for b in np.unique(bins)
    )
    assert metric("ece:bins=10").value(ROWS) == pytest.approx(by_hand, abs=1e-12)


PAIRS = [
    ("The patient reports chest pain since Monday.", "Chest pain since Monday, the patient reports."),
    ("He doesn't smoke; two beers/week.", "He does not smoke, and has 2 beers a week."),
    ("ok", "yes"),
    ("No known drug allergies.", "No known allergies."),
    ("A B C D E F G", "A B C D X F G"),
    ("something was written", ""),
]
TEXTS = [Prediction(id=str(k), reference=r, output=o) for k, (r, o) in enumerate(PAIRS)]


@pytest.mark.parametrize("variant", ["1", "2", "L"])
def test_rouge_equals_rouge_score(variant: str) -> None:
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer([f"rouge{variant}"])
    reference = np.mean([scorer.score(r, o)[f"rouge{variant}"].fmeasure for r, o in PAIRS])
    assert metric(f"rouge:variant={variant}").value(TEXTS) == pytest.approx(reference, abs=1e-12)


def test_rouge_reads_other_scripts() -> None:
    row = Prediction(id="1", reference="咳嗽 三天", output="咳嗽")
    assert metric("rouge:variant=1").value([row]) == pytest.approx(2 * 1 * 0.5 / 1.5)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("कि का की", ["कि", "का", "की"]),  # three words that differ in a vowel sign alone
        ("வணக்கம் நண்பரே", ["வணக்கம்", "நண்பரே"]),
        ("שָׁלוֹם, עולם", ["שָׁלוֹם", "עולם"]),
        ("ฉันกิน ข้าว", ["ฉั", "น", "กิ", "น", "ข้", "า", "ว"]),
        ("ខ្ញុំ", ["ខ្", "ញុំ"]),
        ("Cafe\u0301 CAF\u00c9", ["caf\u00e9", "caf\u00e9"]),
        ("می\u200cخواهم", ["میخواهم"]),
        ("咳嗽 3天 ok_2", ["咳", "嗽", "3", "天", "ok", "2"]),
        ("\u0301 _ -", []),
    ],
)
def test_rouge_finds_the_words_of_every_script(text: str, words: list[str]) -> None:
    from metier.metrics.rouge import Words

    assert Words().tokenize(text) == [unicodedata.normalize("NFC", word) for word in words]


def test_rouge_of_different_words_is_zero_where_only_their_marks_differ() -> None:
    row = Prediction(id="1", reference="कि", output="का")
    assert metric("rouge:variant=1").value([row]) == 0.0


@pytest.mark.parametrize("subset", [slice(0, 6), slice(0, 2), slice(2, 3), slice(4, 5), slice(2, 6), slice(0, 1)])
def test_bleu_and_chrf_equal_sacrebleu(subset: slice) -> None:
    import sacrebleu

    said, right = [o for _, o in PAIRS[subset]], [[r for r, _ in PAIRS[subset]]]
    assert metric("bleu").value(TEXTS[subset]) == pytest.approx(sacrebleu.corpus_bleu(said, right).score, abs=1e-9)
    assert metric("chrf").value(TEXTS[subset]) == pytest.approx(sacrebleu.corpus_chrf(said, right).score, abs=1e-9)


def test_spearman_equals_scipy() -> None:
    from scipy.stats import spearmanr

    x = RNG.integers(0, 20, 150).astype(float)  # with ties
    y = x + RNG.normal(0, 8, 150).round()
    rows = [
        Prediction(id=str(k), reference=float(a), output=float(b)) for k, (a, b) in enumerate(zip(x, y, strict=True))
    ]
    assert metric("spearman").value(rows) == pytest.approx(spearmanr(x, y).statistic, abs=1e-9)
    flat = [Prediction(id="1", reference=1.0, output=float(b)) for b in y]
    assert metric("spearman").value(flat) is None


def test_an_answer_that_is_no_label_misses_its_class_and_accuses_none() -> None:
    rows = [Prediction(id="1", reference="a", output="a"), Prediction(id="2", reference="a", output="")]
    assert metric("precision").value(rows) == 1.0
    assert metric("recall").value(rows) == 0.5
    assert metric("accuracy").value(rows) == 0.5


def test_specs() -> None:
    assert metric("regex_match:pattern=^[a-z]{1,3}$").value([Prediction(id="1", output="abc")]) == 1.0
    assert metric("f1:average=micro").label == "F1 (micro)"
    with pytest.raises(ConfigError, match="E210 There is no metric `acuracy`"):
        metric("acuracy")
    with pytest.raises(ConfigError, match="E211 `micro` does not fit"):
        metric("f1:micro")
    with pytest.raises(ConfigError, match="E211 `pattern` does not fit"):
        metric("regex_match")
    with pytest.raises(ConfigError, match="not a regular expression"):
        metric("regex_match:pattern=(")
