"""Presidio as a further detector: what joins, that the rules need it for nothing, and that nothing asks the network."""

from __future__ import annotations

import socket
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from metier.actions.data import measure_privacy
from metier.core.errors import ConfigError, MachineError
from metier.core.extras import installed
from metier.data.privacy import presidio
from metier.data.privacy.engine import detect, further
from metier.data.privacy.kinds import KINDS
from metier.data.privacy.spans import Span
from metier.data.steps import deidentify

present = pytest.mark.skipif(installed("presidio_analyzer") is None, reason="presidio-analyzer is not installed")
absent = pytest.mark.skipif(installed("presidio_analyzer") is not None, reason="presidio-analyzer is installed")
WALLET = "1BvBMSEYstWetqTFn5Au4m4GFg7xJaNVN2"


def test_every_entity_has_a_kind_that_there_is() -> None:
    assert set(presidio.KINDS_OF.values()) <= KINDS.keys()


@absent
def test_without_the_package_it_is_named_and_the_rules_go_on(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="E450") as caught:
        further(["presidio"])
    assert "presidio" in caught.value.fix
    assert further([]) == []
    assert detect("Call 212-555-0134.", extra=further([])) == [Span(5, 17, "PHONE")]


def test_a_detector_of_another_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="E208"):
        measure_privacy(tmp_path / "a.jsonl", detectors=["gliner"])


@present
def test_it_is_set_up_and_used_without_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "create_connection", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)
    presidio.detector.cache_clear()
    (found,) = presidio.detector().find("write to ann.b@example.co.uk today")
    assert found == Span(9, 28, "EMAIL")
    assert [*presidio.detector().find("write to ann.b@example.nowhere1 today")] == []


@present
@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (f"send it to {WALLET} please", "ACCOUNT"), ("my number 44051401359", "NATIONAL_ID"),
        ("number 943 476 5919", "HEALTH_PLAN"), ("it is 86095742719", "NATIONAL_ID"),
    ],
)  # fmt: skip
def test_a_number_is_found_by_its_checksum_alone(text: str, kind: str) -> None:
    assert kind in {span.kind for span in presidio.detector().find(text)}


@present
@pytest.mark.parametrize("text", [f"send it to {WALLET[:-1]}3", "my number 44051401358", "It costs 17.50 in 2021."])
def test_a_checksum_that_does_not_fit_is_none(text: str) -> None:
    assert [*presidio.detector().find(text)] == []


@present
def test_a_cue_word_raises_a_score_which_needs_lemmas() -> None:
    # the checksum of these numbers cannot be decided: born in 2020, when it was given up
    assert [span.kind for span in presidio.detector().find("Korean RRN 200121-1234567")] == ["NATIONAL_ID"]
    assert [*presidio.detector().find("it was 200121-1234567")] == []


@present
def test_its_finds_join_ours_in_the_step() -> None:
    text = f"Kowalczyk pays to {WALLET}."
    options = deidentify.Options(detectors=("presidio",))
    assert deidentify.deidentify(text, options, Counter()) == "[PERSON] pays to [ACCOUNT]."
    assert WALLET in deidentify.deidentify(text, deidentify.Options(), Counter())
