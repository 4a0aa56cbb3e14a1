"""How far a preparation has come, kept so that one that was interrupted continues.

private/prepare/support/.lock                 who prepares; a second one waits
                        9f2c1a77e01b/         the inputs (sources, options, code): state.json  rows.jsonl  0-*.npy …

After reading, and after each step before the division, the rows (data/spool.py), the numbers of those that are still
there, the records and the quarantine are committed; state.json comes last and names every other file with its digest.
What it does not name, what is torn and what was altered is not used: the preparation begins again. All of it goes when
the version is written and when the preparation is refused; it holds raw rows, so that `metier erase` looks here, too.
"""

from __future__ import annotations

import contextlib
import io
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metier.core.errors import MetierError
from metier.core.locks import one_at_a_time
from metier.core.project import Project, digest_file, digest_json, disk_errors, read_json, write_bytes, write_json
from metier.data.quarantine import Quarantine
from metier.data.reading import Progress
from metier.data.spool import Choice, Spool

ROWS = "rows.jsonl"
QUARANTINE = "quarantine.jsonl"
STATE = "state.json"
LOCK = ".lock"


@dataclass(slots=True)
class State:
    """What a preparation has so far.

    `pools`: examples of the spool by the split their source names; `sources`: what the manifest says of them;
    `num_read`: rows that were read; `records`: what the manifest says of the steps that are done; `num_done`: how many
    of the recipe's steps are behind.
    """

    spool: Spool
    pools: dict[str, Choice]
    sources: list[dict[str, Any]]
    quarantine: Quarantine
    num_read: int
    records: list[dict[str, Any]] = field(default_factory=list)
    num_done: int = 0


class Stages:
    """The folder of one preparation."""

    def __init__(self, folder: Path, inputs_digest: str) -> None:
        self.dir = folder
        self._inputs_digest = inputs_digest

    def begun(self) -> Spool:
        """Return an empty spool for the rows; what was there is gone.

        Raises:
            MachineError: E420–E422.
        """
        with disk_errors(self.dir):
            shutil.rmtree(self.dir, ignore_errors=True)
            _made(self.dir)
        return Spool(self.dir / ROWS)

    def commit(self, state: State) -> None:
        """Keep what there is now in the place of what was kept before.

        Raises:
            MachineError: E420–E422.
        """
        before = set(self.dir.glob("*.npy"))
        arrays: dict[str, NDArray[Any]] = {"characters": state.spool.characters}
        arrays |= {f"pool-{name}": pool.numbers for name, pool in state.pools.items()}
        files = {name: self.dir / f"{state.num_done}-{name}.npy" for name in arrays}
        for name, values in arrays.items():
            data = io.BytesIO()
            np.save(data, values, allow_pickle=False)
            write_bytes(files[name], data.getvalue())
            files[name].chmod(0o600)
        quarantine = self.dir / QUARANTINE
        if not quarantine.exists():
            state.quarantine.write(quarantine)
        num_bytes, sha256 = state.spool.synced()
        body = {
            "inputs_digest": self._inputs_digest,
            "rows": {"bytes": num_bytes, "sha256": sha256},
            "files": {file.name: digest_file(file) for file in (*files.values(), quarantine)},
            "pools": list(state.pools),
            "sources": state.sources,
            "num_read": state.num_read,
            "quarantined_of": state.quarantine.num_rows,
            "records": state.records,
            "num_done": state.num_done,
        }
        write_json(self.dir / STATE, {"digest": digest_json(body), **body})
        (self.dir / STATE).chmod(0o600)
        for file in before - set(files.values()):
            file.unlink()

    def found(self) -> State | None:
        """Return what an earlier process committed, or None where there is nothing that can be relied upon."""
        try:
            return self._read()
        except (OSError, ValueError, KeyError, TypeError, MetierError):
            return None

    def _read(self) -> State:
        body = read_json(self.dir / STATE)
        digest, _ = body.pop("digest"), body.pop("schema_version")
        if digest != digest_json(body) or body["inputs_digest"] != self._inputs_digest:
            raise ValueError("another state")
        for name, sha256 in body["files"].items():
            if digest_file(self.dir / Path(name).name) != sha256:
                raise ValueError(f"{name} was altered")
        prefix = self.dir / str(body["num_done"])
        characters = np.load(f"{prefix}-characters.npy", allow_pickle=False)
        spool = Spool.continued(self.dir / ROWS, body["rows"]["bytes"], body["rows"]["sha256"], characters)
        return State(
            spool=spool,
            pools={n: spool.choice(np.load(f"{prefix}-pool-{n}.npy", allow_pickle=False)) for n in body["pools"]},
            sources=body["sources"],
            quarantine=Quarantine.read(self.dir / QUARANTINE, body["quarantined_of"]),
            num_read=body["num_read"],
            records=body["records"],
            num_done=body["num_done"],
        )


@contextlib.contextmanager
def opened(project: Project, name: str, inputs_digest: str, progress: Progress | None = None) -> Iterator[Stages]:
    """Give the stages of a preparation for the time of a block, in which nobody else prepares the same name.

    They go when the block ends well or is refused (a coded error), and stay when it is interrupted. Those of other
    inputs go before it begins.

    Raises:
        MachineError: E420–E422.
    """
    home = folder(project, name)
    with disk_errors(home):
        _made(home)

    def wait() -> None:
        if progress:
            progress(f"waiting: `{name}` is being prepared by another process", 0, None)

    with one_at_a_time(home / LOCK, wait):
        stages = Stages(home / inputs_digest[:12], inputs_digest)
        for other in home.iterdir():
            if other.is_dir() and other != stages.dir:
                shutil.rmtree(other, ignore_errors=True)
        try:
            yield stages
        except MetierError:
            shutil.rmtree(stages.dir, ignore_errors=True)
            raise
        shutil.rmtree(stages.dir, ignore_errors=True)


def folder(project: Project, name: str) -> Path:
    """Return where the stages of a dataset's preparations lie."""
    return project.private_dir / "prepare" / name


def _made(home: Path) -> None:
    for part in (home.parent.parent, home.parent, home):
        part.mkdir(mode=0o700, exist_ok=True)
