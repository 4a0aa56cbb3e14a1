from __future__ import annotations

import pickle

import pytest

from metier.core.errors import (
    Bug,
    ConfigError,
    DataError,
    GateError,
    MachineError,
    MetierError,
    PermissionDenied,
    RowError,
    from_json,
)


@pytest.mark.parametrize(
    ("kind", "digit"),
    [(Bug, 1), (ConfigError, 2), (DataError, 3), (MachineError, 4), (GateError, 5), (PermissionDenied, 6)],
)
def test_the_first_digit_is_the_exit_code(kind: type[MetierError], digit: int) -> None:
    error = kind(digit * 100 + 7, "what")
    assert (error.code, error.exit_code) == (f"E{digit}07", digit)
    with pytest.raises(ValueError, match="does not belong"):
        kind((digit % 6 + 1) * 100, "another class's number")


def test_the_text_names_place_received_expected_and_the_next_step_in_that_order() -> None:
    error = ConfigError(201, "Unknown key `x`", place="r.yaml:3", received="x", expected="y", fix="Did you mean `y`?")
    assert str(error).split("\n") == [
        "E201 Unknown key `x`  r.yaml:3",
        "     received: x",
        "     expected: y",
        "     next: Did you mean `y`?",
    ]


def test_empty_parts_leave_no_line() -> None:
    assert str(GateError(501, "Gate failed")) == "E501 Gate failed"


def test_errors_cross_a_process_boundary() -> None:
    error = MachineError(420, "The disk is full", place="/x", fix="free space")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is MachineError
    assert str(copy) == str(error)
    row = RowError("no-assistant-message", "no reply", field="messages.2", place="a.jsonl:4")
    copied = pickle.loads(pickle.dumps(row))
    assert (copied.reason, copied.field, copied.place, copied.code) == (row.reason, row.field, row.place, "E311")


def test_the_json_form_holds_every_part() -> None:
    assert DataError(300, "gone", place="a.csv").to_json() == {
        "code": "E300",
        "what": "gone",
        "place": "a.csv",
        "received": "",
        "expected": "",
        "fix": "",
    }


@pytest.mark.parametrize("kind", [Bug, ConfigError, DataError, MachineError, GateError, PermissionDenied])
def test_an_error_that_was_written_down_comes_back(kind: type[MetierError]) -> None:
    error = kind(kind.digit * 100 + 7, "what", place="r.yaml:3", received="x", expected="y", fix="z")
    event = {"time": "now", "kind": "error", "exit_code": kind.digit, **error.to_json()}
    back = from_json(event)
    assert type(back) is kind
    assert str(back) == str(error)


def test_an_old_event_may_lack_parts() -> None:
    assert str(from_json({"code": "E320", "what": "an old story"})) == "E320 an old story"
