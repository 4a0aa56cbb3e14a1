"""When the frozen part is kept, where, and what stays of it afterwards."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from contract.recipe_probes import Desk
from metier.actions import execute, trunk
from metier.actions.compose import compose
from metier.core.run import Run
from metier.models.trunk import Trunk

FROZEN = {"adapter.kind": "none", "training.max_steps": None, "training.num_train_epochs": 5}


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    return Desk(tmp_path_factory.mktemp("desk"))


def made(desk: Desk, changes: dict[str, Any]) -> Any:
    return compose(desk.recipe({**FROZEN, **changes}), desk.project())


def silent(what: str, done: int, total: int | None) -> None:
    pass


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, "kept because the whole base is frozen"),
        ({"adapter.kind": "layers", "adapter.num_layers": 1}, "kept because 1 of 2 blocks are frozen"),
        ({"training.cache_frozen": False}, "off because the recipe says so"),
        (
            {"training.num_train_epochs": 1, "evaluation.every_steps": 100},
            "off because the run passes over its rows",
        ),
        ({"adapter.kind": "full"}, ""),
    ],
)
def test_the_choice_has_a_reason(desk: Desk, changes: dict[str, Any], reason: str) -> None:
    choice = trunk.choose(made(desk, changes))
    assert choice.reason.startswith(reason) and bool(choice.reason) == bool(reason)
    assert (choice.trunk is not None) == reason.startswith("kept") == (choice.num_bytes > 0)


def test_a_disk_without_room_turns_it_off_but_not_in_a_run_that_began_with_it(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = made(desk, {})
    monkeypatch.setattr(trunk.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    assert "quarter of the free disk" in trunk.choose(parts).reason
    parts.choices["trunk"] = "kept because …"
    assert trunk.choose(parts).trunk is not None
    parts.choices["trunk"] = "off because …"
    monkeypatch.undo()
    assert trunk.choose(parts).trunk is None, "nor does a run that began without it change its mind"


def test_a_resume_may_turn_on_what_the_recipe_had_turned_off(desk: Desk) -> None:
    parts = made(desk, {})
    parts.choices["trunk"] = trunk.choose(made(desk, {"training.cache_frozen": False})).reason
    assert trunk.choose(parts).trunk is not None


def test_what_is_kept_is_read_by_both_feeds_and_a_large_cache_does_not_wait(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = made(desk, {})
    num_bytes = trunk.keep(parts, silent)
    folders = list((parts.project.cache_dir / "trunk").iterdir())
    assert len(folders) == 2 and parts.train.trunk and parts.validation.trunk
    assert num_bytes == sum((folder / "states.bin").stat().st_size for folder in folders)
    trunk.clear(parts)
    assert parts.train.trunk is None and len(list((parts.project.cache_dir / "trunk").iterdir())) == 2
    trunk.keep(parts, silent)
    monkeypatch.setattr(trunk, "KEPT_AFTERWARDS", 0)
    trunk.clear(parts)
    assert not list((parts.project.cache_dir / "trunk").iterdir())


def test_states_of_another_computation_are_not_read(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def key(parts: Any) -> str:
        part = Trunk.of(parts.policy)
        assert part is not None
        return trunk._place(parts, part, "train")[1]

    parts = made(desk, {})
    first = key(parts)
    assert key(made(desk, {})) == first
    keys = {first}
    kept = parts.base.config_digest
    parts.base.config_digest = "of another rope_theta"
    keys.add(key(parts))
    parts.base.config_digest = kept
    monkeypatch.setattr(trunk, "version", lambda package: "9.9" if package == "transformers" else version(package))
    keys.add(key(parts))
    monkeypatch.undo()
    parts.base.device = torch.device("cuda")
    keys.add(key(parts))
    assert len(keys) == 4


def test_a_probe_that_disagrees_turns_it_off(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trunk, "holds", lambda *_: False)
    parts = made(desk, {})
    assert trunk.keep(parts, silent) == 0
    assert parts.train.trunk is None and "differs from a whole one" in parts.choices["trunk"]


def test_a_run_says_what_its_cache_took(desk: Desk, tmp_path: Path) -> None:
    parts = made(desk, {})
    run = Run.create(parts.project.new_run_dir("classify", "x"))
    execute._train(run, parts, SimpleNamespace(signal=None, deferred=False, now=lambda: None), {}, 0.0)  # type: ignore[arg-type]
    (event,) = run.events("trunk")
    assert event["num_bytes"] > 0 and event["seconds"] > 0
