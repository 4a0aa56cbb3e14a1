"""Erase a person from a project: who it is, which stores are asked, which runs and models saw the rows."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metier.core import audit, erase_runs
from metier.core.erase_runs import RunFileStore
from metier.core.errors import ConfigError, DataError, MetierError
from metier.core.locks import alone
from metier.core.needles import composed
from metier.core.project import Project, digest_bytes, now
from metier.core.recipe import Recipe
from metier.core.run import Run
from metier.core.scan import paths, scan
from metier.core.subject import Store, Subject, relative, says_enough
from metier.core.types import SPLITS
from metier.data import subject_rows, subjects
from metier.data.erase_caches import TokenCacheStore
from metier.data.erase_private import PrivateListStore, VaultStore
from metier.data.erase_sources import SourceStore
from metier.data.erase_stages import StageStore
from metier.data.erase_surrogates import pseudonyms
from metier.data.erase_versions import VersionStore
from metier.data.reading import Progress
from metier.evaluation.erase_reports import PredictionStore, ReportStore, report_folders, warn
from metier.governance import erasure
from metier.governance.erasure import Journal
from metier.training.erase_trunks import TrunkCacheStore

_GIT = ".git: its history is its owner's to rewrite"


@dataclass(frozen=True, slots=True)
class Prepared:
    """An erasure that could begin: the subject, the stores, what they have, and what the certificate will state.

    `asked` are the files whose rows the stores ask, `also` the further texts as they were given, `state` a digest of
    what the project looked like: where it does not any more, everything is found again.
    """

    subject: Subject
    stores: Sequence[Store]
    journal: Journal
    found: list[dict[str, Any]]
    notes: dict[str, Any]
    earlier: list[dict[str, Any]]
    asked: tuple[str, ...]
    also: frozenset[str]
    state: str

    def to_json(self) -> dict[str, Any]:
        """Return what would be done; nothing of the person's texts."""
        shown = ("subject", "versions", "runs", "models", "outside", "not_scanned")
        return {name: self.notes[name] for name in shown} | {
            "found": self.found,
            "interrupted": bool(self.journal.read()),
            "earlier": [c["certificate"] for c in self.earlier],
        }


def prepare(project: Project, key: str, also: Iterable[str] = (), progress: Progress | None = None) -> Prepared:
    """Find what there is of a subject; nothing is changed.

    Args:
        key: value of the columns that the sources' `permission.subject_key` name.
        also: further texts that identify the person, such as name and e-mail address.

    Raises:
        ConfigError: E292, a text says too little to be looked for, or nothing says where the key stands.
        DataError: E306–E309, a source cannot be read; E369, nothing of the subject is there; E365 a vault.
    """
    key, further = composed(key), frozenset(map(composed, also))
    state = _state(project)
    recipes, unread = _recipes(project)
    sources = subject_rows.stated_sources(project, recipes)
    columns = subject_rows.columns_of(sources)
    _enough(key, further, columns)
    vaults = VaultStore(project)
    rows = subject_rows.Rows(project, sources)
    replaced, unknown = pseudonyms(project, Subject(key, columns, scopes=rows.scopes))
    named = Subject(key, columns, further | vaults.surrogates([key, *further]), pseudonyms=replaced)
    subject_hash = audit.pseudonym(project, key)
    journal = Journal(project, subject_hash)
    before = journal.read()
    subject = subjects.gather(project, named, sources, _staying(project), progress, rows)
    if before:
        subject = subject.merged(Subject.from_json(before["person"]))
    certificate = before.get("certificate") or f"erasure-{now()[:10].replace('-', '')}-{secrets.token_hex(4)}"
    stores = stores_of(project, rows.files, certificate, audit.user())
    found_now = VersionStore(project, certificate, audit.user()).affected(subject)
    affected = _joined(before.get("versions", []), found_now, "digest")
    runs = _joined(before.get("runs", []), _runs(project, affected), "run")
    found = erasure.found(stores, subject)
    earlier = erasure.certificates(project, subject_hash)
    if not (found or before or earlier) and not scan(project.root, subject, skip=journal.dir, progress=progress).hits:
        raise DataError(
            369,
            "Nothing of this subject is in the project",
            place=project.name,
            received=f"no row with the key in {', '.join(sorted(columns)) or 'any column'}, and no other trace",
            expected="the value that the column has in the rows",
            fix="look at the key again; permission.subject_key names its column, --also takes further texts",
        )
    notes = {
        "certificate": certificate,
        "subject": subject_hash,
        "begun": before.get("begun") or now(),
        "versions": affected,
        "runs": runs,
        "models": _joined(before.get("models", []), _models(project, runs), "to"),
        "outside": rows.outside,
        "not_scanned": [
            *([_GIT] if (project.root / ".git").exists() else []),
            *unread,
            *unknown,
            *rows.notes,
            *_unknown_runs(project),
        ],
        "removed": before.get("removed", []),
    }
    asked = tuple(relative(file, project.root.resolve()) for file in rows.files)
    return Prepared(subject, stores, journal, found, notes, earlier, asked, further, state)


def stores_of(project: Project, files: Sequence[Path], certificate: str, who: str) -> list[Store]:
    """Return every place of a project that may hold something of a person, sources first: nothing is made again.

    Args:
        files: the sources' files inside the project.
        certificate: id of the erasure, for the tombstones; `who` carries it out.
    """
    return [
        SourceStore(project, files),
        VersionStore(project, certificate, who),
        StageStore(project),
        PrivateListStore(project),
        VaultStore(project),
        TokenCacheStore(project),
        TrunkCacheStore(project),
        PredictionStore(project),
        ReportStore(project),
        RunFileStore(project),
    ]


def erase(project: Project, prepared: Prepared, progress: Progress | None = None) -> dict[str, Any]:
    """Carry an erasure out and return its certificate; one that was interrupted is finished by the next call.

    The project is its own from here to the byte scan. Where it changed since `prepare`, the person is looked for again.

    Raises:
        ConfigError: E234, a run of the project is running; E293, something else is at work in it.
        DataError: E367, something is left.
        MachineError: E420–E422.
    """
    for run in map(Run, project.run_dirs()):
        if run.held():  # even one that did not see the rows may be about to prepare them
            raise ConfigError(
                234, f"Run {run.number} is running", place=run.dir.name, fix=f"metier runs stop {run.number}"
            )
    with alone(project, "metier erase"):
        if _state(project) != prepared.state:
            prepared = prepare(project, prepared.subject.key, prepared.also, progress)
        return _erase(project, prepared, progress)


def _erase(project: Project, prepared: Prepared, progress: Progress | None) -> dict[str, Any]:
    # Before the first row goes: a killed erasure must not leave a run that looks as if nothing had happened.
    prepared.journal.write({"person": prepared.subject.to_json(), **prepared.notes})
    rows = {facts["run"]: facts["rows"] for facts in prepared.notes["runs"]}
    runs = [run for run in map(Run, project.run_dirs()) if run.number in rows]
    for run in runs:
        erase_runs.mark(run, prepared.notes["certificate"], rows[run.number])
    for folder in report_folders(project):
        run_folder = folder if (folder / "status.json").is_file() else folder.parents[1]
        if any(run.dir == run_folder for run in runs):
            for text in erase_runs.warnings(Run(run_folder).status()):
                warn(folder, text)
    return erasure.erase(
        project,
        prepared.subject,
        prepared.stores,
        prepared.journal,
        prepared.notes,
        asked=prepared.asked,
        progress=progress,
    )


# ───────────────────────────────────────────────────────────────────────────── inside


def _enough(key: str, also: frozenset[str], columns: frozenset[str]) -> None:
    weak = [text for text in also if not says_enough(text)]
    if not key or weak or (not columns and not says_enough(key)):
        raise ConfigError(
            292,
            "A text says too little to be looked for in every file",
            received=f"{len(weak)} of the further texts" if weak else "the key, and no source names its column",
            expected="six characters, or nine digits; a shorter key only where permission.subject_key names its column",
            fix="metier erase --subject KEY --also 'First Last'",
        )


def _recipes(project: Project) -> tuple[list[Recipe], list[str]]:
    """Return the project's recipes and those of its runs, and a note for each that cannot be read."""
    files = [*sorted((project.root / "recipes").glob("*.y*ml"))]
    files += [folder / "recipe.resolved.yaml" for folder in project.run_dirs()]
    found, unread = [], []
    for file in (f for f in files if f.is_file()):
        try:
            found.append(Recipe.read(file))
        except MetierError as error:
            unread.append(f"{file.relative_to(project.root).as_posix()}: its sources were not asked ({error.code})")
    return found, unread


def _state(project: Project) -> str:
    """Return a digest of the names, sizes and times of the files of a project: what was found holds for these."""
    seen = []
    for path in paths(project.root):
        if path.suffix != ".lock" and not path.is_dir():
            with contextlib.suppress(FileNotFoundError):  # a temporary file of another process
                facts = path.lstat()
                seen.append((str(path), facts.st_size, facts.st_mtime_ns))
    return digest_bytes(repr(seen).encode())


def _unknown_runs(project: Project) -> list[str]:
    """Return a note for each run whose rows nobody can look up: its version is gone, or itself, but for its models."""
    known = subject_rows.digests(project)
    found = []
    runs = [Run(folder) for folder in project.run_dirs()]
    for run in runs:
        status = run.status()
        if status.get("dataset_digest") and status["dataset_digest"] not in known:
            read = status.get("dataset")
            found.append(f"run {run.number}: {read} is gone; whether the run saw the rows is not known")
    said: dict[str, set[str]] = {"export": set(), "run.remove": set()}
    for record in audit.records(project):
        action, fields = str(record.get("action")), record.get("fields")
        if action in said and isinstance(fields, dict):
            said[action].add(str(fields.get("run")))
    lost = said["export"] - said["run.remove"] - {run.id for run in runs}  # `runs rm` asks for the models first
    return found + [f"run {name}: its folder is gone, and a model was exported from it" for name in sorted(lost)]


def _staying(project: Project) -> list[str]:
    """Return the texts of the project that are nobody's: its recipes, whose prompts stand in every row."""
    files = [project.file, *sorted((project.root / "recipes").glob("*.y*ml"))]
    files += [folder / "recipe.resolved.yaml" for folder in project.run_dirs()]
    return [file.read_text(encoding="utf-8", errors="replace") for file in files if file.is_file()]


def _runs(project: Project, versions: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the runs that read one of these versions, and those that began with a model of such a run."""
    found: dict[int, dict[str, Any]] = {}
    runs = [Run(folder) for folder in project.run_dirs()]
    for run in runs:
        status = run.status()
        for version in versions:
            if version["rows"] and status.get("dataset_digest") in (version["digest"], *version["before"]):
                rows = {split: version["rows"][split] for split in SPLITS if version["rows"].get(split)}
                found[run.number] = {"run": run.number, "name": status.get("name"), "rows": rows}
    more = True
    while more:
        exports = {(project.root / model["to"]).resolve(): model["run"] for model in _models(project, found.values())}
        more = False
        for run in (r for r in runs if r.number not in found):
            base = erase_runs.base_of(run, project)
            if base in exports:
                found[run.number] = {
                    "run": run.number,
                    "name": run.status().get("name"),
                    "rows": found[exports[base]]["rows"],
                }
                more = True
    return [found[number] for number in sorted(found)]


def _models(project: Project, runs: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the models that were exported from these runs."""
    found = []
    for facts in runs:
        if _is_there(project, facts):
            exports = Run(project.run_dir(str(facts["run"]))).status().get("exports", [])
            found += [{"run": facts["run"], "to": e["to"], "form": e["form"]} for e in exports]
    return found


def _is_there(project: Project, facts: dict[str, Any]) -> bool:
    return any(Run(folder).number == facts["run"] for folder in project.run_dirs())


def _joined(before: Sequence[dict[str, Any]], found: Sequence[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """Return what an interrupted erasure had found, and what is found now and was not known by this name."""
    known = {facts[name] for facts in before}
    return [*before, *(facts for facts in found if facts[name] not in known)]
