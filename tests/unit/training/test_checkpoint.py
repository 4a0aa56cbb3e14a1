"""Checkpoints: sealed, verified, rotated; damage is found and the older one is used (trust.md 3, 4, 7)."""

from __future__ import annotations

import errno
import json
import threading
from pathlib import Path

import pytest
import torch

from contract.test_methods import parts, run
from metier.core.errors import MachineError
from metier.training import checkpoint


@pytest.fixture
def trained(tmp_path: Path):  # type: ignore[no-untyped-def]
    method, feed, policy = parts("sft", "lora", {"r": 2})
    _, state = run(method, feed, policy, steps=1)
    for step in (1, 2, 3):
        state.step = step
        checkpoint.save(tmp_path, policy, state, digests={"dataset": "d"}, figures={"loss": 1.0 / step})
    return tmp_path, policy, state


def names(folder: Path) -> list[str]:
    return [p.name for p in checkpoint.listing(folder)]


def test_a_saved_checkpoint_verifies_and_leaves_no_temporary(trained) -> None:  # type: ignore[no-untyped-def]
    folder, _, _ = trained
    assert names(folder) == ["step-000001", "step-000002", "step-000003"]
    assert all(not checkpoint.problems(p) for p in checkpoint.listing(folder))
    assert not [p for p in folder.iterdir() if p.name.startswith(".")]


def damage_flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def damage_cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def damage_zero(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def damage_remove(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("damage", [damage_flip, damage_cut, damage_zero, damage_remove])
def test_damage_to_any_file_is_found_and_the_older_checkpoint_is_used(trained, damage) -> None:  # type: ignore[no-untyped-def]
    folder, policy, state = trained
    last = folder / "step-000003"
    for file in sorted(p for p in last.iterdir() if p.is_file()):
        original = file.read_bytes()
        damage(file)
        found, notes = checkpoint.newest(folder)
        assert found is not None and found.name == "step-000002", file.name
        assert notes and "step-000003" in notes[0], file.name
        with pytest.raises(MachineError) as error:
            checkpoint.restore(last, policy, state)
        assert error.value.code == "E430"
        file.write_bytes(original)
    assert checkpoint.newest(folder)[0] == last


def test_rotation_keeps_the_newest_and_the_best(trained) -> None:  # type: ignore[no-untyped-def]
    folder, _, _ = trained
    assert checkpoint.rotate(folder, keep=1, best="step-000001") == ["step-000002"]
    assert names(folder) == ["step-000001", "step-000003"]


def test_rotation_never_leaves_less_than_one_verified_checkpoint(trained) -> None:  # type: ignore[no-untyped-def]
    folder, _, _ = trained
    damage_flip(folder / "step-000003" / "optimizer.safetensors")
    assert checkpoint.rotate(folder, keep=1, best=None) == []
    assert names(folder) == ["step-000001", "step-000002", "step-000003"]


def test_an_unfinished_save_is_no_checkpoint(trained) -> None:  # type: ignore[no-untyped-def]
    folder, _, _ = trained
    (folder / "step-000003" / "COMPLETE.json").unlink()
    found, notes = checkpoint.newest(folder)
    assert found is not None and found.name == "step-000002"
    assert "did not finish" in notes[0]


def test_any_bit_of_complete_may_flip(trained) -> None:  # type: ignore[no-untyped-def]
    folder, _, _ = trained
    complete = folder / "step-000003" / "COMPLETE.json"
    original = complete.read_bytes()
    stamp = range(original.index(b'"written"'), original.index(b'"files"'))
    version = range(original.index(b'"schema_version"'), original.index(b'"written"'))
    for place in range(len(original)):
        for bit in (0, 3, 5, 7):
            data = bytearray(original)
            data[place] ^= 1 << bit
            complete.write_bytes(data)
            wrong = checkpoint.problems(complete.parent)
            # The time stamp and the white space vouch for nothing; whatever else changes must be found.
            free = place in stamp or place in version or chr(original[place]).isspace() or not chr(data[place]).strip()
            assert wrong or free, (place, bit, original[max(0, place - 20) : place + 20])
    complete.write_bytes(original)
    assert checkpoint.problems(complete.parent) == []


def test_complete_lists_every_file_with_its_digest(trained) -> None:  # type: ignore[no-untyped-def]
    folder, _, _ = trained
    listed = json.loads((folder / "step-000003" / "COMPLETE.json").read_text())["files"]
    there = {p.name for p in (folder / "step-000003").iterdir()} - {"COMPLETE.json"}
    assert {f["path"] for f in listed} == there
    assert {"optimizer.safetensors", "state.json"} < there


def test_the_newest_of_a_very_long_run_is_the_one_with_the_largest_step(trained) -> None:  # type: ignore[no-untyped-def]
    folder, policy, state = trained
    for step in (999_999, 1_000_000):
        state.step = step
        checkpoint.save(folder, policy, state, digests={}, figures={})
    newest, _ = checkpoint.newest(folder)
    assert newest is not None and newest.name == "step-1000000"


@pytest.mark.parametrize(("planned", "expected"), [(4096, 512), (256, 256), (8192, 8192)])
def test_a_resume_keeps_the_micro_batch_found_to_fit_unless_the_recipe_asks_for_another(
    trained,
    planned: int,
    expected: int,  # type: ignore[no-untyped-def]
) -> None:
    folder, policy, state = trained
    state.step, state.micro_batch_tokens = 4, 512  # halved from 4096 when memory ran out
    path = checkpoint.save(folder, policy, state, digests={}, figures={})
    state.micro_batch_tokens = state.planned_micro_batch_tokens = planned
    checkpoint.restore(path, policy, state)
    assert state.micro_batch_tokens == expected


def test_weights_may_change_as_soon_as_a_save_has_begun(trained, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    folder, policy, state = trained
    go_on, seal = threading.Event(), checkpoint.seal

    def slow(path: Path) -> None:
        assert go_on.wait(30)
        seal(path)

    monkeypatch.setattr(checkpoint, "seal", slow)
    before = {name: p.detach().clone() for name, p in policy.trained().items()}
    state.step = 4
    writing = checkpoint.begin(folder, policy, state, digests={}, figures={})
    assert not writing.done and "step-000004" not in names(folder), "nothing is there until it is sealed"
    with torch.no_grad():
        for parameter in policy.trained().values():
            parameter += 1
    state.step = 5
    go_on.set()
    path = writing.wait()
    assert writing.done and path.name == "step-000004" and not checkpoint.problems(path)
    checkpoint.restore(path, policy, state)
    assert state.step == 4
    assert all(torch.equal(p, before[name]) for name, p in policy.trained().items())


def test_a_disk_that_fails_in_the_thread_is_told_where_somebody_waits(trained, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    folder, policy, state = trained

    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(checkpoint, "seal", full)
    state.step = 4
    writing = checkpoint.begin(folder, policy, state, digests={}, figures={})
    with pytest.raises(MachineError, match="E420"):
        writing.wait()
    assert names(folder) == ["step-000001", "step-000002", "step-000003"]
    assert not [p for p in folder.iterdir() if p.name.startswith(".")]


def test_what_this_process_has_sealed_is_not_read_again_to_delete_the_others(
    trained, monkeypatch: pytest.MonkeyPatch
) -> None:  # type: ignore[no-untyped-def]
    folder, _, _ = trained
    monkeypatch.setattr(checkpoint, "problems", lambda path: pytest.fail("read again"))
    assert checkpoint.rotate(folder, keep=1, best=None, sealed="step-000003") == ["step-000001", "step-000002"]


def test_another_card_and_another_cuda_are_other_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    here = checkpoint.versions(torch.device("cpu"))
    assert here["device"].startswith("cpu (") and "cuda" not in here
    names = {0: "NVIDIA H200", 1: "NVIDIA L4"}
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: names[device.index])
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    first, second = (checkpoint.versions(torch.device("cuda", index)) for index in (0, 1))
    assert (first["device"], first["cuda"], second["device"]) == ("NVIDIA H200", "13.0", "NVIDIA L4")
    assert {name for name in first if first[name] != second[name]} == {"device"}
