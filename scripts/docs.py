"""Write docs/recipe.md, docs/cli.md and the tables of docs/privacy.md from the code, or check that they are current.

python scripts/docs.py            write
python scripts/docs.py --check    exit 1 when a page is out of date
"""

from __future__ import annotations

import difflib
import inspect
import itertools
import os
import sys
from pathlib import Path
from typing import Any

os.environ.update(COLUMNS="100", TERMINAL_WIDTH="100", NO_COLOR="1")

from metier.cli.app import JOURNEY, app
from metier.cli.catalog import option_rows
from metier.core.catalog import PACKAGES, catalog
from metier.core.extras import ENVIRONMENT
from metier.core.recipe import Recipe, describe
from metier.data.privacy.evaluation import ROWS
from metier.data.privacy.kinds import KINDS, PROFILES

DOCS = Path(__file__).resolve().parent.parent / "docs"
PROFILES_BEGIN, PROFILES_END = ("<!-- profiles: begin (scripts/docs.py writes this part) -->", "<!-- profiles: end -->")
NOTE = "<!-- Written by scripts/docs.py from the code: `make docs`. Do not edit. -->\n"


# ───────────────────────────────────────────────────────────────────────────── recipe.md


def recipe_page() -> str:
    """Return the reference of the recipe: every section and key, then every plug-in with its options."""
    parts = [
        "# The recipe\n",
        NOTE,
        inspect.getdoc(Recipe) or "",
        "\nPrecedence: command line (`training.seed=1`) > file > default. Values there are YAML; a text is taken as it "
        "is written. Unknown keys are errors. "
        "Keys marked *execution* change only how a result is computed: a resume accepts them.\n",
    ]
    sections: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for path, info in describe().items():
        owner, _, leaf = path.rpartition(".")
        sections.setdefault(owner, []).append((leaf, info))
    for owner, keys in sections.items():
        parts.append(f"\n## {owner or 'Top level'}\n")
        parts.append("| key | type | default | meaning |\n|---|---|---|---|")
        parts += [_key_row(leaf, info) for leaf, info in keys]
    for name in PACKAGES:
        parts += _catalog_section(name)
    return "\n".join(parts) + "\n"


def _key_row(leaf: str, info: dict[str, Any]) -> str:
    default = "required" if info["required"] else f"`{_written(info['default'])}`" if info["default"] != "" else ""
    notes = ([info["unit"]] if info["unit"] else []) + ([] if info["semantic"] else ["*execution*"])
    meaning = info["description"] + (f" ({', '.join(notes)})" if notes else "")
    return f"| `{leaf}` | {_cell(info['type'])} | {_cell(default)} | {_cell(meaning)} |"


def _catalog_section(name: str) -> list[str]:
    found = catalog(name)
    if not found.names():
        return []
    parts = [f"\n## Catalog: {name}\n"]
    for kind in found.names():
        plugin = found.get(kind)
        parts.append(f"\n### {name}: `{kind}`\n\n{plugin.summary}\n")
        rows = option_rows(plugin.Options)
        if rows:
            parts.append("| option | type | default | meaning |\n|---|---|---|---|")
            parts += [f"| `{n}` | {_cell(t)} | `{_cell(d)}` | {_cell(m)} |" for n, t, d, m in rows]
    return parts


def _written(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if hasattr(value, "model_dump"):
        value = value.model_dump(exclude_defaults=False)
    if isinstance(value, tuple):
        value = list(value)
    return str(value)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


# ───────────────────────────────────────────────────────────────────────────── cli.md


def cli_page() -> str:
    """Return the help of every command, in the order of the journey."""
    import typer

    root = typer.main.get_command(app)
    parts = ["# The command line\n", NOTE]
    parts.append(
        "stdout is data, stderr is talk. Every command takes `--json`. Colors follow the terminal and `NO_COLOR`.\n"
    )
    parts.append(
        "Exit codes: 0 ok · 1 bug · 2 config or usage · 3 data · 4 machine · 5 gate · 6 permission · 130 interrupted · "
        "141 the reader of stdout went away · 143 terminated.\n"
    )
    parts.append(_help(root, "metier", None))
    context = root.context_class(root, info_name="metier")
    for name in JOURNEY:
        parts += _helps(root.commands[name], f"metier {name}", context)
    parts.append("## Environment\n\n| variable | meaning |\n|---|---|")
    parts.append("\n".join(f"| `{name}` | {_cell(meaning)} |" for name, meaning in ENVIRONMENT.items()) + "\n")
    return "\n".join(parts)


def _helps(command: Any, title: str, parent: Any) -> list[str]:
    """Return the help of a command and of those below it."""
    context = command.context_class(command, info_name=title.split()[-1], parent=parent)
    below = getattr(command, "commands", {}).items()
    return [
        _help(command, title, parent),
        *(page for name, inner in below for page in _helps(inner, f"{title} {name}", context)),
    ]


def _help(command: Any, title: str, parent: Any) -> str:
    context = command.context_class(
        command, info_name=title.split()[-1], parent=parent, terminal_width=100, max_content_width=100
    )
    return f"## {title}\n\n```\n{command.get_help(context).rstrip()}\n```\n"


# ───────────────────────────────────────────────────────────────────────────── privacy.md


def privacy_page() -> str:
    """Return docs/privacy.md with its tables: identifier, kind, detector, recall as benchmarks/data.md has it."""
    page = (DOCS / "privacy.md").read_text(encoding="utf-8")
    head, begin, rest = page.partition(PROFILES_BEGIN)
    _, end, tail = rest.partition(PROFILES_END)
    public, generated = _measured((DOCS.parent / "benchmarks" / "data.md").read_text(encoding="utf-8"))
    parts = [
        f"Documents of half B that leak: {public['**documents that leak**, 80 %']} with a span covered to less than"
        f" 80 %; {public['documents that leak, every character']} with one character or more left."
        f" Finds that are right: {public['precision over all labels, finds']}."
    ]
    for profile, identifiers in PROFILES.items():
        parts.append(f"\n### {profile}\n")
        parts.append("| identifier | kind | what is found | detector | half B | generated |\n|---|---|---|---|---|---|")
        for identifier in identifiers:
            name = _cell(identifier.name + (f": {identifier.note}" if identifier.note else ""))
            for kind in identifier.kinds or ("",):
                parts.append(f"| {name} | {' | '.join(_kind_cells(kind, public, generated))} |")
                name = ""
    return head + begin + "\n\n" + "\n".join(parts) + "\n\n" + end + tail


def _kind_cells(kind: str, public: dict[str, str], generated: dict[str, str]) -> list[str]:
    if not kind:
        return ["–", "nothing", "no detector", "–", "–"]
    half = public.get(ROWS[kind][1], "–") if kind in ROWS else "–"
    made = next((generated[name] for name in (kind, f"{kind} cued") if name in generated), "–")
    if half == made == "–":
        half = "not measured"
    return [f"`{kind}`", _cell(KINDS[kind].what), f"`detectors/{KINDS[kind].detector}.py`", half, made]


def _measured(page: str) -> tuple[dict[str, str], dict[str, str]]:
    """Return line → recall on half B, and generated kind → recall, from the benchmark's two tables."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line[:1] == "|"]
    found: list[dict[str, str]] = []
    for first, column in (("kind", "half B"), ("generated kind", "recall at 80 %")):
        start = next(number for number, row in enumerate(rows) if row[0] == first)
        width, at = len(rows[start]), rows[start].index(column)
        body = itertools.takewhile(lambda row, width=width: len(row) == width, rows[start:])
        found.append({row[0]: row[at] for row in body})
    return found[0], found[1]


# ───────────────────────────────────────────────────────────────────────────── write or check


def main(argv: list[str]) -> int:
    """Write the pages, or with `--check` return 1 when one is out of date."""
    stale = False
    for name, page in (("recipe.md", recipe_page()), ("cli.md", cli_page()), ("privacy.md", privacy_page())):
        path = DOCS / name
        old = path.read_text(encoding="utf-8") if path.exists() else ""
        if "--check" in argv:
            lines = list(
                difflib.unified_diff(old.splitlines(), page.splitlines(), f"docs/{name}", "code", lineterm="", n=0)
            )
            sys.stderr.write("\n".join(lines[:20]) + ("\n" if lines else ""))
            stale = stale or bool(lines)
        else:
            DOCS.mkdir(exist_ok=True)
            path.write_text(page, encoding="utf-8")
    if stale:
        sys.stderr.write("docs/ is out of date: make docs\n")
    return int(stale)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
