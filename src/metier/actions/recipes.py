"""Write a project's first recipe from its rows, add sources without touching comments, keep a recipe with its run."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from metier.core.errors import ConfigError, DataError
from metier.core.project import Project, read_json, write_json, write_text
from metier.core.recipe import Recipe
from metier.core.yamlmarks import load_marked
from metier.data.formats import Detection, detect
from metier.data.rows import Row
from metier.data.source import read_rows

DETECTION_ROWS = 200
WRITTEN, RESOLVED, LINES = "recipe.yaml", "recipe.resolved.yaml", "recipe.lines.json"
"""The recipe in a run's directory: the text, every key with its value, and the line of each key in the user's file."""
NANO = "metier/nano"
METHOD_OF = {"labelled": "classify", "text": "cpt", "conversation": "sft"}
TASK_OF = {"labelled": "classify", "text": "continue", "conversation": "chat"}


@dataclass(frozen=True, slots=True)
class FirstRecipe:
    """A recipe that was written, and what it was written from."""

    project: Project
    path: Path
    format: str
    reason: str
    task: str


def first_recipe(
    root: Path, data: Path, *, name: str | None = None, task: str | None = None, model: str = NANO
) -> FirstRecipe:
    """Write a commented recipe for a data file; format, task and method follow from its rows.

    Args:
        root: of the project; it is made where there is none, once the recipe is known to be right.
        name: the recipe's, and a new project's; default: the file's, the folder's.
        model: a base; a directory is found from the working directory, as the rows are.

    Raises:
        DataError: E300–E304, the file cannot be read or its rows have no known shape.
        ConfigError: E202, no such task; E264, the recipe exists already.
        MachineError: E420–E422, the folder cannot be written.
    """
    found = _detected(data, task)
    slug = re.sub(r"[^a-z0-9._-]+", "-", (name or data.stem).lower()).strip("-._")[:64] or "specialist"
    path = root / "recipes" / f"{slug}.yaml"
    if path.exists():
        again = ["metier", "init", Project.shown(root), "--data", Project.shown(data), "--name", "OTHER"]
        raise ConfigError(
            264,
            "There is such a recipe already",
            place=Project.shown(path),
            fix=shlex.join(again),
        )
    chosen = task or TASK_OF.get(found.kind, "chat")
    text = _text(slug, chosen, within(root, data), found, model_within(root, model), _method(found.kind, chosen))
    Recipe.parse(text, file=path.name)  # a task that does not exist is said before anything is written
    project = Project.create(root, name or root.name)
    write_text(path, text)
    return FirstRecipe(project, path, found.name, found.reason, chosen)


def within(root: Path, path: Path) -> str:
    """Return a whole path as a recipe holds it: relative to the project where it lies inside."""
    return str(path.relative_to(root) if path.is_relative_to(root) else path)


def model_within(root: Path, written: str) -> str:
    """Return a base as a recipe holds it: a directory that is found from the working directory by where it lies."""
    path = Path(written).expanduser()
    return within(root, path.resolve()) if written != NANO and path.is_dir() else written


def scalar(value: Any) -> str:
    """Return a value as YAML writes it in one line."""
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=1000)
    return text.removesuffix("\n").removesuffix("\n...")


def add_source(path: Path, entry: dict[str, Any], project: Project) -> int:
    """Add a source at the end of `data.sources` of a recipe file and return its line; comments stay.

    Raises:
        DataError: E300–E302, the source cannot be read.
        ConfigError: E265, the recipe's sources are not written as a block list.
    """
    if not str(entry["path"]).startswith("hf:"):
        next(iter(read_rows(project.path(str(entry["path"])))), None)
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    recipe = Recipe.read(path)
    after = _end_of_sources(lines, recipe, path)
    indent = re.match(r"\s*", lines[after - 1])[0] if recipe.data.sources else "    "  # type: ignore[index]
    first = _line_of_last(lines, after)
    indent = first if first is not None else indent
    body = yaml.safe_dump([entry], sort_keys=False, allow_unicode=True, default_flow_style=False, width=1000)
    added = [f"{indent}{line}\n" for line in body.splitlines()]
    if lines and not lines[after - 1].endswith("\n"):
        lines[after - 1] += "\n"
    text = "".join([*lines[:after], *added, *lines[after:]])
    Recipe.parse(text, file=path.name)
    write_text(path, text)
    return after + 1


def chat_template(recipe: Recipe, project: Project) -> str | None:
    """Return the text of `model.chat_template`: a file's where it names one, else what it says itself.

    Raises:
        ConfigError: E249, no such file.
    """
    written = recipe.model.chat_template
    if written is None or "{" in written or "." not in written:
        return written
    path = project.path(written)
    if not path.is_file():
        raise ConfigError(
            249,
            "There is no such chat template",
            place=recipe.place("model.chat_template"),
            received=written,
            expected="a Jinja file, or the built-in `chatml` or `plain`",
            fix=f"write the file {project.shown(path)}, or model.chat_template=chatml",
        )
    return path.read_text(encoding="utf-8")


# ───────────────────────────────────────────────────────────────────────────── the recipe of a run


def keep(recipe: Recipe, folder: Path, text: str = "") -> None:
    """Write a recipe into a run's directory: as its user wrote it, and resolved with where each key was written.

    Args:
        text: the file that the user wrote; empty where there is none, or where it is there already.
    """
    if text or not (folder / WRITTEN).exists():
        write_text(folder / WRITTEN, text or recipe.to_yaml())
    # The lines are kept, not looked up again: the user goes on editing that file, and `key=value` is nowhere in it.
    write_json(folder / LINES, {"file": recipe.file, "lines": recipe.lines})
    write_text(folder / RESOLVED, recipe.to_yaml())


def kept(folder: Path, overrides: Iterable[str] = ()) -> Recipe:
    """Return the recipe of a run; its errors name the file and line that the user wrote, not the resolved copy's.

    A run that was started from Python without a file is told with the recipe.yaml in its own directory.

    Raises:
        ConfigError: as `Recipe.read`.
    """
    found = read_json(folder / LINES) if (folder / LINES).is_file() else {}
    file, lines = str(found.get("file", "")), dict(found.get("lines", {}))
    if not file and (folder / WRITTEN).is_file():
        file = f"{folder.name}/{WRITTEN}"
        lines = load_marked((folder / WRITTEN).read_text(encoding="utf-8-sig"), file).lines
    return Recipe.read(folder / RESOLVED, overrides, origin=(file, lines) if file else None)


# ───────────────────────────────────────────────────────────────────────────── inside


def _detected(data: Path, task: str | None) -> Detection:
    rows = [row.value for row in islice(read_rows(data), DETECTION_ROWS) if isinstance(row, Row)]
    if not rows:
        raise DataError(
            305,
            "No row of the file can be read",
            place=str(data),
            expected="JSONL, JSON, CSV, TSV, Parquet or text with at least one row",
            fix="open the file and look at its first lines",
        )
    return detect(rows, task, place=data.name)


def _method(kind: str, task: str) -> str:
    """The method for rows of this kind: under a task that is written out, a label is a reply like any other."""
    if task == "continue":
        return "cpt"
    return METHOD_OF.get(kind, "sft") if kind != "labelled" or task == "classify" else "sft"


def _text(name: str, task: str, source: str, found: Detection, model: str, method: str) -> str:
    kind = f"{{kind: {method}}}"
    rows = json.dumps(source, ensure_ascii=False)
    adapter = "full" if model == NANO else "lora"
    return f"""\
# {name}: made by `metier init` from {Path(source).name}. Every key: docs/recipe.md
version: 1
name: {name}
objective:
  task: {task}
  description: ""            # one sentence for the reader of the report
  targets: {{}}                # such as {{{_target(method)}: ">= 0.9"}}; frozen before training
data:
  sources:
    - path: {rows}
      split: auto            # train | validation | test, where the file is one of them
      format: {found.name:<14} # {found.reason}
  split: {{validation: 0.1, test: 0.1, seed: 0}}
model:
  name_or_path: {scalar(model)}
adapter: {{kind: {adapter}}}        # metier catalog ls adapters
method: {kind}     # metier catalog ls methods
training:
  num_train_epochs: 3
  batch_size: 16
  max_length: 1024           # metier plan says how many rows it cuts
  seed: 0
"""


def _target(method: str) -> str:
    return {"classify": "accuracy", "cpt": "bits_per_byte"}.get(method, "rouge")


def _line_of_last(lines: list[str], after: int) -> str | None:
    """The indentation of the last `- ` item before a line, or None."""
    for line in reversed(lines[:after]):
        match = re.match(r"(\s*)- ", line)
        if match:
            return match[1]
        if re.match(r"\s*sources:", line):
            return None
    return None


def _end_of_sources(lines: list[str], recipe: Recipe, path: Path) -> int:
    """The number of lines up to the end of the block list under `sources:`."""
    start = next((i for i, line in enumerate(lines) if re.match(r"\s+sources:\s*(#.*)?$", line)), None)
    if start is None:
        raise ConfigError(
            265,
            "data.sources is not written as a list with a line per source",
            place=recipe.place("data.sources") or path.name,
            expected="data:\\n  sources:\\n    - path: …",
            fix="write the sources as a block list, then repeat",
        )
    depth = len(lines[start]) - len(lines[start].lstrip())
    end = start + 1
    last = end
    while end < len(lines):
        line = lines[end]
        inner = len(line) - len(line.lstrip())
        if line.strip() and not line.lstrip().startswith("#"):
            if inner < depth or (inner == depth and not line.lstrip().startswith("- ")):
                break
            last = end + 1
        end += 1
    return last
