from __future__ import annotations

from pathlib import Path

from metier.core.project import Project, write_json
from metier.core.subject import Subject
from metier.training.erase_trunks import TrunkCacheStore


def test_kept_states_go_with_any_row_and_only_then(tmp_path: Path) -> None:
    project = Project.create(tmp_path, "p")
    for name in ("abc", ".abc.12.tmp"):
        (project.cache_dir / "trunk" / name).mkdir(parents=True)
    store = TrunkCacheStore(project)
    assert store.find(Subject("P-00123")) == []
    known = Subject("P-00123", ids=frozenset({"a"}))
    assert len(store.erase(known)) == 2
    assert store.find(known) == [] and not any((project.cache_dir / "trunk").iterdir())


def test_states_of_no_version_go_with_anybody(tmp_path: Path) -> None:
    project = Project.create(tmp_path, "p")
    write_json(project.datasets_dir / "d" / "v1-aaaaaa" / "manifest.json", {"digest": "d1", "sources": []})
    for name, dataset in (("mine", "d1"), ("stray", "d2")):
        write_json(project.cache_dir / "trunk" / name / "manifest.json", {"kind": "trunk", "dataset": dataset})
    store = TrunkCacheStore(project)
    nobody = Subject("P-00123")
    assert store.find(nobody) == []
    assert [(t.file, t.what) for t in store.erase(nobody)] == [("cache/trunk/stray", "of no version")]
    assert [p.name for p in (project.cache_dir / "trunk").iterdir()] == ["mine"]
