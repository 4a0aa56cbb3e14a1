"""The project folder: the only file that knows the disk layout.

Files are the truth: the command line, the web page and a killed process see the same state because all read it here.
Every write goes to a temporary name, is fsynced and renamed. Every JSON file carries `schema_version`; times are UTC,
RFC 3339.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import hashlib
import json
import os
import re
import secrets
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from metier.core.errors import ConfigError, MachineError
from metier.core.yamlmarks import load_marked

SCHEMA_VERSION = 1
PROJECT_FILE = "metier.yaml"
_PROJECT_KEYS: dict[str, tuple[type, str, str]] = {
    "version": (int, "a whole number", "version: 1"),
    "name": (str, "text", "name: support"),
    "gates": (dict, "a mapping", "gates: {parity: required}"),
}
"""Every key of metier.yaml: type, type in words, example. Which gates there are is governance's to say."""
_WRITTEN_BY_METIER = "restore the file from a copy, or make the run, dataset or model it belongs to again"


# ───────────────────────────────────────────────────────────────────────────── small facts


def now() -> str:
    """Return the time as RFC 3339 in UTC, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def digest_bytes(data: bytes) -> str:
    """Return the SHA-256 of bytes, in hex."""
    return hashlib.sha256(data).hexdigest()


def digest_json(value: Any) -> str:
    """Return the SHA-256 of the canonical JSON of a value: sorted keys, no spaces, UTF-8."""
    return digest_bytes(json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode())


def digest_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_run_dir(path: Path) -> bool:
    """Whether a directory is that of a run or a copy of one; any text may be asked, such as one that is no path."""
    try:
        return (path / "status.json").is_file()
    except OSError:  # a name that is too long for one
        return False


def run_number(name: str) -> int | None:
    """Return the number of a run directory's name (`0012-7f3a-sft-support` → 12), None for any other name.

    Four digits are the least that is written; a fifth follows 9999.
    """
    match = re.match(r"([0-9]{4,})-", name)
    return int(match[1]) if match else None


# ───────────────────────────────────────────────────────────────────────────── atomic files


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals into coded errors.

    Raises:
        MachineError: E420 disk full, E421 not writable, E422 another I/O error.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise MachineError(
                420,
                "The disk is full; nothing that was complete is lost",
                place=str(path),
                fix="free space, then repeat",
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise MachineError(
                421,
                "This place cannot be written",
                place=str(path),
                fix="choose another directory or change its permissions",
            ) from error
        if isinstance(error, FileNotFoundError | FileExistsError | IsADirectoryError | NotADirectoryError):
            raise
        raise MachineError(
            422,
            f"Input/output error: {error.strerror}",
            place=str(path),
            fix="check the disk and its connection, then repeat",
        ) from error


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file so that a reader sees the old bytes or the new ones, never a part; survives a power cut."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        fsync_directory(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON object atomically, with `schema_version` first."""
    write_text(path, json.dumps({"schema_version": SCHEMA_VERSION, **value}, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object that `write_json` wrote.

    Raises:
        ConfigError: E220 no such file, E221 not a JSON object, E222 written by a newer Metier.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(220, "There is no such file", place=str(path), fix=_WRITTEN_BY_METIER) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(
            221, "The file is not valid JSON", place=str(path), received=str(error), fix=_WRITTEN_BY_METIER
        ) from None
    if not isinstance(value, dict):
        raise ConfigError(
            221,
            "The file is not a JSON object",
            place=str(path),
            received=type(value).__name__,
            fix=_WRITTEN_BY_METIER,
        )
    if value.get("schema_version", SCHEMA_VERSION) > SCHEMA_VERSION:
        raise ConfigError(
            222,
            "The file was written by a newer Metier",
            place=str(path),
            received=f"schema_version {value['schema_version']}",
            expected=f"at most {SCHEMA_VERSION}",
            fix="upgrade metier",
        )
    return value


def fsync_directory(path: Path) -> None:
    """Make a rename inside this directory durable."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# ───────────────────────────────────────────────────────────────────────────── the project


class Settings(dict[str, Any]):
    """The keys of metier.yaml with the lines they stand in."""

    def __init__(self, values: Mapping[str, Any], places: Mapping[str, str] | None = None) -> None:
        super().__init__(values)
        self._places = dict(places or {})

    def place(self, dotted: str) -> str:
        """Return `metier.yaml:4` for a dotted key, or the file's name where it was not written there."""
        return self._places.get(dotted, PROJECT_FILE)


class Project:
    """A folder with a metier.yaml. `Project.create` makes one, `Project.find` finds the one around here.

    Raises:
        ConfigError: E230 no metier.yaml; E201, E202, E204, E205, E206 what is wrong in it, as in a recipe.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.file = root / PROJECT_FILE
        try:
            text = self.file.read_text(encoding="utf-8-sig")
        except FileNotFoundError:
            raise ConfigError(230, "This folder is not a Metier project", place=str(root), fix="metier init") from None
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                204,
                "The project file cannot be read as UTF-8 text",
                place=str(self.file),
                received=str(error),
                fix="change its permissions, or save it as UTF-8 text",
            ) from None
        self.settings = _settings(text)

    @classmethod
    def create(cls, root: Path, name: str) -> Project:
        """Make a project folder; an existing project is left as it is.

        Raises:
            ConfigError: E298, something else than a folder is in the way.
            MachineError: E420–E422, the folder cannot be written.
        """
        try:
            with disk_errors(root):
                root.mkdir(parents=True, exist_ok=True)
                if not (root / PROJECT_FILE).exists():
                    body = {"version": 1, "name": name, "gates": {"parity": "required"}}
                    write_text(root / PROJECT_FILE, yaml.safe_dump(body, sort_keys=False))
                    for folder in ("recipes", "data"):
                        (root / folder).mkdir(exist_ok=True)
                    ignore = root / ".gitignore"
                    if not ignore.exists():
                        write_text(ignore, "cache/\nprivate/\nruns/\ndatasets/\nmodels/\nendpoints/\n")
        except (FileExistsError, NotADirectoryError, FileNotFoundError) as error:
            raise ConfigError(
                298,
                "No project folder can be made here",
                place=str(root),
                received="a file" if root.is_file() else str(error.strerror),
                expected="a folder, or the name of one to be made",
                fix="metier init FOLDER; rows are named as metier init --data FILE",
            ) from None
        return cls(root)

    @classmethod
    def find(cls, start: Path | None = None) -> Project:
        """Return the project that holds `start` (default: the working directory).

        Raises:
            ConfigError: E230, no metier.yaml here or above.
        """
        here = (start or Path.cwd()).resolve()
        for folder in (here, *here.parents):
            if (folder / PROJECT_FILE).is_file():
                return cls(folder)
        raise ConfigError(
            230, "There is no Metier project here or above", place=str(here), fix="metier init, or cd into a project"
        )

    @property
    def name(self) -> str:
        """The project's name."""
        return str(self.settings.get("name", self.root.name))

    @property
    def datasets_dir(self) -> Path:
        """`datasets/<name>/v<k>-<digest>/`: immutable dataset versions."""
        return self.root / "datasets"

    @property
    def runs_dir(self) -> Path:
        """`runs/<number>-<hex>-<method>-<name>/`."""
        return self.root / "runs"

    @property
    def models_dir(self) -> Path:
        """`models/<name>/v<k>/`: exported model versions with their own weights."""
        return self.root / "models"

    @property
    def cache_dir(self) -> Path:
        """Always safe to delete."""
        return self._made(self.root / "cache")

    @property
    def private_dir(self) -> Path:
        """Quarantine and vaults: raw personal data, readable by the owner alone, never exported."""
        folder = self._made(self.root / "private")
        with disk_errors(folder):
            folder.chmod(0o700)
        return folder

    @property
    def audit_file(self) -> Path:
        """The append-only hash chain."""
        return self.root / "audit.jsonl"

    def path(self, written: str) -> Path:
        """Return a path of a recipe: `${NAME}` and `~` expanded, relative ones from the project's root.

        Raises:
            ConfigError: E231, an environment variable that is not set.
        """
        missing = [name for name in re.findall(r"\$\{(\w+)\}", written) if name not in os.environ]
        if missing:
            raise ConfigError(
                231, f"The environment variable {missing[0]} is not set", received=written, fix=f"export {missing[0]}=…"
            )
        expanded = re.sub(r"\$\{(\w+)\}", lambda m: os.environ[m[1]], written)
        with contextlib.suppress(RuntimeError):  # `~` and no such user: as a shell does, it stays what it is
            expanded = str(Path(expanded).expanduser())
        return (self.root / expanded).resolve()

    @staticmethod
    def shown(path: Path) -> str:
        """Return a path as a user would type it: relative to the working directory where that is shorter."""
        with contextlib.suppress(ValueError):
            return str(path.resolve().relative_to(Path.cwd()))
        return str(path)

    def new_run_dir(self, method: str, name: str) -> Path:
        """Create and return the next run directory (`runs/0012-7f3a-sft-support`); safe against a second caller."""
        with disk_errors(self.runs_dir):
            self.runs_dir.mkdir(parents=True, exist_ok=True)
            while True:
                numbers = [run_number(p.name) for p in self.runs_dir.iterdir()]
                number = max((n for n in numbers if n is not None), default=0) + 1
                # The number alone is the claim: two starters cannot both make this marker.
                marker = self.runs_dir / f".{number:04d}.claim"
                try:
                    marker.touch(exist_ok=False)
                except FileExistsError:
                    self._drop_stale(marker)
                    continue
                if any(run_number(p.name) == number for p in self.runs_dir.iterdir()):
                    marker.unlink()  # somebody finished this number between the listing and the claim
                    continue
                folder = self.runs_dir / f"{number:04d}-{secrets.token_hex(2)}-{method}-{name}"
                folder.mkdir()
                marker.unlink()
                return folder

    def run_dirs(self) -> list[Path]:
        """Return all run directories, oldest first."""
        if not self.runs_dir.is_dir():
            return []
        numbered = [(run_number(p.name), p) for p in self.runs_dir.iterdir()]
        # Without a status file it is being made or being deleted, in this instant or by a process that was killed.
        return [p for _, p in sorted((n, p) for n, p in numbered if n is not None and (p / "status.json").is_file())]

    def run_dir(self, ref: str) -> Path:
        """Return the run directory for `12`, `0012`, a directory name, a path, or `last`.

        Raises:
            ConfigError: E232, no such run.
        """
        runs = self.run_dirs()
        ref = ref.removeprefix("run:")
        if ref == "last" and runs:
            return runs[-1]
        found = [r for r in runs if r.name == ref or (ref.isdecimal() and run_number(r.name) == int(ref))]
        named = "" if found or not is_run_dir(Path(ref)) else Path(ref).resolve().name
        if run_number(named) is not None:
            found = [Path(ref).resolve()]
        if len(found) != 1:
            raise ConfigError(
                232,
                f"There is no run `{ref if len(ref) <= 80 else ref[:79] + '…'}`",
                place=str(self.runs_dir),
                received=f"{named}, a directory without a number" if named else "",
                expected=", ".join(str(run_number(r.name)) for r in runs[-10:]) or "no run exists yet",
                fix="metier runs ls",
            )
        return found[0]

    @staticmethod
    def _drop_stale(marker: Path, seconds: float = 5.0) -> None:
        """Remove a claim whose maker died between two system calls."""
        with contextlib.suppress(FileNotFoundError):
            if time.time() - marker.stat().st_mtime > seconds:
                marker.unlink()
        time.sleep(0.01)

    @staticmethod
    def _made(folder: Path) -> Path:
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        return folder


def _settings(text: str) -> Settings:
    """Read metier.yaml. A misspelt `gates` must not silently be none: unknown keys are errors, as in a recipe."""
    marked = load_marked(text, PROJECT_FILE)
    settings = marked.value or {}
    if not isinstance(settings, dict):
        raise ConfigError(
            204,
            "The project file is not a mapping",
            place=PROJECT_FILE,
            received=type(settings).__name__,
            expected=", ".join(_PROJECT_KEYS),
            fix="write it as `key: value` lines, such as `name: support`",
        )
    lines = {key: f"{PROJECT_FILE}:{line}" for key, line in marked.lines.items()}
    for key, value in settings.items():
        place = lines.get(str(key), PROJECT_FILE)
        if key not in _PROJECT_KEYS:
            near = difflib.get_close_matches(str(key), _PROJECT_KEYS, n=1)
            raise ConfigError(
                201,
                f"Unknown key `{key}` in the project file",
                place=place,
                expected=", ".join(_PROJECT_KEYS),
                fix=f"Did you mean `{near[0]}`?" if near else "remove it; what one run needs stands in its recipe",
            )
        kind, expected, example = _PROJECT_KEYS[key]
        if value is not None and not isinstance(value, kind):
            raise ConfigError(
                202,
                f"`{key}` of the project file has a wrong value",
                place=place,
                received=repr(value)[:80],
                expected=expected,
                fix=f"write it such as `{example}`",
            )
    settings = Settings({key: value for key, value in settings.items() if value is not None}, lines)
    if settings.get("version", SCHEMA_VERSION) != SCHEMA_VERSION:
        raise ConfigError(
            206,
            f"The project file has version {settings['version']}",
            place=lines["version"],
            expected=f"version: {SCHEMA_VERSION}",
            fix="use the Metier release that wrote it, or set the version after reading CHANGELOG.md",
        )
    return settings
