from __future__ import annotations

from pathlib import Path

from metier.core.project import Project
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
