"""Choices carry their reasons; the measurement is kept, and a slow bf16 is found out quickly."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
import torch

from metier.core.errors import ConfigError, MachineError
from metier.models import probe


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "metier"


@pytest.mark.parametrize(
    ("gain", "value", "told"),
    [(4.8, "bfloat16", "4.8× faster"), (1.2, "float32", "1.2× faster"), (0.002, "float32", "500.0× slower")],
)
def test_auto_follows_the_measurement(
    gain: float, value: str, told: str, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "measure_gain", lambda: gain)
    choice = probe.choose_dtype("auto", "cpu")
    assert choice.value == value
    assert choice.reason == f"{value} because a matmul probe ran {told} in bfloat16 than in float32"


def test_the_measurement_is_taken_once_and_again_when_its_file_is_broken(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    monkeypatch.setattr(probe, "measure_gain", lambda: calls.append(1) or 3.0)
    assert [probe.choose_dtype("auto", "cpu").value for _ in range(3)] == ["bfloat16"] * 3
    assert len(calls) == 1
    (file,) = own_cache.glob("probe-*.json")
    assert json.loads(file.read_text())["torch"] == torch.__version__
    for broken in ("{", '{"bfloat16_gain": "fast"}', "{}"):
        file.write_text(broken)
        probe.choose_dtype("auto", "cpu")
    assert len(calls) == 4


def test_a_cache_that_cannot_be_written_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr(probe, "measure_gain", lambda: 3.0)
    assert probe.choose_dtype("auto", "cpu").value == "bfloat16"


def test_the_probe_stops_early_where_bfloat16_is_emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, torch.dtype]] = []

    def seconds(size: int, dtype: torch.dtype, repeats: int = 4) -> float:
        asked.append((size, dtype))
        return (size / 64) ** 3 * (1e-5 if dtype == torch.float32 else 5e-3)

    monkeypatch.setattr(probe, "_best_seconds", seconds)
    assert probe.measure_gain() == pytest.approx(0.002)
    assert {size for size, _ in asked} == {64}


def test_the_probe_is_short() -> None:
    started = time.process_time()
    assert probe.measure_gain() > 0
    assert time.process_time() - started < 5


def test_what_the_recipe_says_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "measure_gain", lambda: pytest.fail("measured"))
    assert probe.choose_dtype("float32", "cpu") == probe.Choice("float32", "float32 because the recipe says so")
    with pytest.raises(ConfigError, match="E262"):
        probe.choose_dtype("float8", "cpu")


def test_a_device_that_is_not_there_is_refused() -> None:
    assert probe.choose_device("cpu").value == "cpu"
    assert probe.choose_device("cpu:0").value == "cpu:0"
    for wanted in ("tpu", "xpu:7", "cpu:foo", "cpu:", "cpu:7", "cpu:0:1", "CPU", "", "meta"):
        with pytest.raises(MachineError, match="E410"):
            probe.choose_device(wanted)


def test_a_gpu_that_is_counted_beyond_those_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for wanted in ("cuda", "cuda:0", "cuda:1"):
        assert probe.choose_device(wanted).value == wanted
    for wanted in ("cuda:2", "cuda:9", "cuda:-1", "cuda:one"):
        with pytest.raises(MachineError, match="E410") as caught:
            probe.choose_device(wanted)
        assert "cuda (0 to 1)" in caught.value.expected and "cpu" in caught.value.expected


def test_threads_are_capped_by_the_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0})
    assert probe.choose_threads().value == "1"
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    monkeypatch.setattr(probe, "_container_quota", lambda: None)
    assert probe.choose_threads() == probe.Choice("3", "3 because PyTorch's default allows that many")
    monkeypatch.setattr(probe, "_container_quota", lambda: 2)
    assert probe.choose_threads() == probe.Choice("2", "2 because the container's CPU quota allows that many")


# ───────────────────────────────────────────────────────────────────────────── memory

GIB = 2**30


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A machine with 8 GiB free, on which this process holds 1 GiB."""
    write(tmp_path, "proc/meminfo", f"MemTotal: 999 kB\nMemAvailable:   {8 * 2**20} kB\nBuffers: 7 kB\n")
    write(tmp_path, "proc/self/status", f"VmRSS:\t {3 * 2**20} kB\nRssAnon:\t {2**20} kB\n")
    return tmp_path


def write(root: Path, name: str, text: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)


def test_without_a_container_it_is_what_the_system_has_free_and_what_is_held_already(machine: Path) -> None:
    assert probe.free_memory_bytes(machine) == 9 * GIB
    write(machine, "proc/self/cgroup", "0::/\n")
    write(machine, "sys/fs/cgroup/memory.current", str(3 * GIB))
    write(machine, "sys/fs/cgroup/memory.max", "max\n")
    assert probe.free_memory_bytes(machine) == 9 * GIB


def test_the_limit_of_a_container_counts_less_what_is_used_and_cannot_be_dropped(machine: Path) -> None:
    write(machine, "proc/self/cgroup", "0::/somewhere/outside/of/the/container\n")
    write(machine, "sys/fs/cgroup/memory.max", f"{4 * GIB}\n")
    write(machine, "sys/fs/cgroup/memory.current", f"{3 * GIB}\n")
    write(machine, "sys/fs/cgroup/memory.stat", f"anon 5\ninactive_file {GIB}\nactive_file 7\n")
    assert probe.free_memory_bytes(machine) == (4 - 3 + 1) * GIB + GIB


def test_the_narrowest_group_on_the_way_up_counts(machine: Path) -> None:
    write(machine, "proc/self/cgroup", "0::/user/session\n")
    for name, limit in (("user/session", "max"), ("user", str(5 * GIB)), ("", str(7 * GIB))):
        write(machine, f"sys/fs/cgroup/{name}/memory.max", limit)
        write(machine, f"sys/fs/cgroup/{name}/memory.current", str(2 * GIB))
    assert probe.free_memory_bytes(machine) == 3 * GIB + GIB
    write(machine, "sys/fs/cgroup/user/memory.current", str(6 * GIB))  # over a limit that was lowered
    assert probe.free_memory_bytes(machine) == GIB


def test_the_first_version_of_control_groups_is_read_too(machine: Path) -> None:
    write(machine, "proc/self/cgroup", "5:devices:/\n4:cpu,memory:/box\n0::/\n")
    group = "sys/fs/cgroup/memory/box"
    write(machine, f"{group}/memory.limit_in_bytes", str(3 * GIB))
    write(machine, f"{group}/memory.usage_in_bytes", str(2 * GIB))
    write(machine, f"{group}/memory.stat", f"inactive_file 9\ntotal_inactive_file {GIB // 2}\n")
    write(machine, "sys/fs/cgroup/memory/memory.limit_in_bytes", str(2**63 - 4096))  # none
    write(machine, "sys/fs/cgroup/memory/memory.usage_in_bytes", str(9 * GIB))
    assert probe.free_memory_bytes(machine) == 3 * GIB - 2 * GIB + GIB // 2 + GIB


def test_a_system_that_does_not_say_what_is_free_is_taken_whole(tmp_path: Path) -> None:
    assert probe.free_memory_bytes(tmp_path) == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="not Linux")
def test_this_machine_says_what_is_free() -> None:
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 50 * 2**20 < probe.free_memory_bytes() <= 1.1 * whole
