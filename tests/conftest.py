"""What every test gets: no network, no traces in the user's folders but the cache, the public data sets if there."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
_OWN = Path(tempfile.mkdtemp(prefix="metier-tests-"))
for _kind in ("config", "state"):
    os.environ[f"METIER_{_kind.upper()}_DIR"] = str(_OWN / _kind)


SLOWEST = (
    "flows/test_demo.py",
    "unit/models/test_memory.py",
    "contract/test_recipe_keys.py",
    "numbers/test_far_device.py",
    "unit/actions/test_compiling.py",
    "flows/test_bad_input.py",
    "flows/test_erase.py",
    "flows/test_cli.py",
)
"""Files that begin before the others: a worker takes a whole file, and the rest would wait for one that came last."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    places = {here / name: place for place, name in enumerate(SLOWEST)}
    items.sort(key=lambda item: places.get(item.path, len(SLOWEST)))


def pytest_sessionfinish() -> None:
    shutil.rmtree(_OWN, ignore_errors=True)


@pytest.fixture(autouse=True)
def _no_kernel_left() -> Iterator[None]:
    """Take back the attention kernel that a loaded base has put to use: the next test has the attention it asks for."""
    yield
    if module := sys.modules.get("metier.models.segment_op"):
        module.use(None)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with the public data sets; tests that need it are skipped where it is not."""
    folder = Path(os.environ.get("METIER_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
    if not folder.is_dir():
        pytest.skip("the public data sets are not here: set METIER_DATA to their folder")
    return folder
