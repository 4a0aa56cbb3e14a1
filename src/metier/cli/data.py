"""`metier data add|preview|check|prepare|card|pii-eval|reidentify`, `metier data vault destroy`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from metier.cli import locate
from metier.cli.flags import Json, Words
from metier.cli.progress import bar, counting
from metier.cli.show import Show, colored, confirm, pairs, style, table
from metier.core.errors import ConfigError, DataError

app = typer.Typer(help="Add, look at, check and prepare training data.", no_args_is_help=True)
vaults = typer.Typer(help="Keep or destroy what reverses surrogates.", no_args_is_help=True)
app.add_typer(vaults, name="vault")
SHOWN_PLACES = 5
"""Places of a finding that are shown before somebody asks for all of them."""
_LEVELS = {"error": ("red", "✗"), "warning": ("yellow", "!"), "ok": ("green", "✓")}


@app.command()
def add(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="File, folder, glob or `hf:org/name`.")],
    recipe: Annotated[
        str | None, typer.Option("--recipe", help="The recipe to change; default: the project's only one.")
    ] = None,
    split: Annotated[str, typer.Option(help="train, validation, test, or auto: divided by data.split.")] = "auto",
    form: Annotated[str, typer.Option("--format", help="A format's name, or auto.")] = "auto",
    columns: Annotated[
        list[str] | None,
        typer.Option("--map", metavar="NAME=COLUMN", help="Canonical column = the file's; repeatable."),
    ] = None,
    license: Annotated[str | None, typer.Option(help="SPDX identifier of the data's license.")] = None,
    basis: Annotated[str | None, typer.Option(help="Legal basis, such as consent.")] = None,
    purpose: Annotated[list[str] | None, typer.Option(help="What it may be used for; repeatable.")] = None,
    json: Json = False,
) -> None:
    """Add a source to a recipe, whose comments stay as they are."""
    from metier.actions import recipes as actions

    show = Show(json)
    found = locate.recipe([recipe] if recipe else None)
    permission = {"license": license, "basis": basis, "purpose": purpose}
    entry: dict[str, Any] = {"path": _as_written(source, found.project.root)}
    entry |= {"split": split} if split != "auto" else {}
    entry |= {"format": form} if form != "auto" else {}
    entry |= {"map": dict(_pair(c) for c in columns)} if columns else {}
    stated = {name: value for name, value in permission.items() if value}
    entry |= {"permission": stated} if stated else {}
    line = actions.add_source(found.path, entry, found.project)
    show.result({"recipe": str(found.path), "line": line, "source": entry}, f"{found.project.shown(found.path)}:{line}")
    show.next(f"metier data preview {shlex.quote(found.project.shown(found.path))}")


@app.command()
def preview(
    words: Words = None,
    rows: Annotated[int, typer.Option(min=1, help="How many examples.")] = 3,
    tokens: Annotated[int, typer.Option(min=0, help="Show the tokens of so many examples, colored by loss mask.")] = 0,
    json: Json = False,
) -> None:
    """Show what the rows become.

    The format and why, some examples, and with --tokens the tokens that the loss is taken on.
    """
    from metier.actions.data import preview as preview_rows

    show = Show(json)
    found = locate.recipe(words)
    with counting(show.say) as progress:
        result = preview_rows(found.recipe, found.project, rows=rows, tokens=tokens, progress=progress)
    show.result(result, result.to_text(color=colored(sys.stdout)))


@app.command()
def check(
    words: Words = None,
    show_code: Annotated[
        str | None, typer.Option("--show", metavar="CODE", help="Every place of one finding, such as E310.")
    ] = None,
    json: Json = False,
) -> None:
    """Check the data: unusable rows, labels, leaks, repetitions, quality.

    A card per finding: what, how many, examples (their text on a terminal only), and the command that repairs it.
    Exits with 3 when something must be repaired first.
    """
    from metier.actions.check import check as check_rows

    show = Show(json)
    found = locate.recipe(words)
    with bar(show.say) as progress:
        findings = check_rows(found.recipe, found.project, progress=progress)
    chosen = [f for f in findings if show_code is None or f.code == show_code]
    lines = []
    for f in chosen:
        color, mark = _LEVELS.get(f.level, ("cyan", "·"))
        lines.append(
            f"{style(mark, color, stream=sys.stdout)} {f.code}  {f.what}" + (f"  ({f.count:,})" if f.count else "")
        )
        places = f.places if show_code else f.places[:SHOWN_PLACES]
        for place in places:
            lines.append(f"    {place}")
            if place in f.examples and sys.stdout.isatty():
                lines.append(f"      {style(f.examples[place], 'dim', stream=sys.stdout)}")
        lines += [f"    … all of them: --show {f.code}"] if len(places) < len(f.places) else []
        lines += [f"    next: {_for_recipe(f.fix, words)}"] if f.fix else []
    show.result(chosen, "\n".join(lines) or "nothing found")
    errors = [f for f in findings if f.level == "error"]
    if errors:
        raise typer.Exit(int(errors[0].code[1]) if errors[0].code[1:2].isdigit() else DataError.digit)


@app.command()
def prepare(words: Words = None, json: Json = False) -> None:
    """Make an immutable dataset version from the rows.

    Read, clean, divide into train, validation and test, with what each step did to the rows. The same input gives the
    same version.
    """
    from metier.actions.data import prepare as prepare_rows

    show = Show(json)
    found = locate.recipe(words)
    with bar(show.say) as progress:
        dataset = prepare_rows(found.recipe, found.project, progress=progress)
    counts = {split: dataset.count(split) for split in ("train", "validation", "test")}
    steps = [{k: v for k, v in step.items() if k != "options"} for step in dataset.manifest["steps"]]
    quarantined = int(dataset.manifest["quarantine"]["rows"])
    value: dict[str, Any] = {"dataset": dataset.ref, "digest": dataset.digest, "dir": str(dataset.dir), "rows": counts}
    value |= {"quarantined": quarantined, "steps": steps}
    text = _before_after(dataset.manifest["sources"], dataset.manifest["quarantine"], steps, counts) + "\n\n"
    text += pairs(
        {
            "dataset": dataset.ref,
            **{f"{s} rows": n for s, n in counts.items()},
            "folder": found.project.shown(dataset.dir),
        }
    )
    show.result(value, text)
    show.next(f"metier data card {dataset.ref}", shlex.join(["metier", "plan", *(words or [])]))


@app.command()
def card(
    ref: Annotated[str, typer.Argument(metavar="DATASET", help="A dataset version, such as data:support@v3.")],
    json: Json = False,
) -> None:
    """Print the data card of a dataset version."""
    from metier.core import refs
    from metier.core.project import Project, read_json

    show = Show(json)
    project = Project.find()
    folder = refs.dataset_dir(project, ref)
    page = folder / "card.md"
    if not page.exists():
        raise ConfigError(257, f"`{ref}` has no data card", place=str(folder), fix="metier data prepare RECIPE")
    manifest = read_json(folder / "manifest.json")
    show.result(manifest, page.read_text(encoding="utf-8"))
    drawn = (manifest.get("privacy") or {}).get("vault")
    if drawn and not (project.root / drawn).exists():
        show.say(f"{drawn} is not here any more: its surrogates cannot be reversed, but they still link rows")
    if (folder / "report.html").exists():
        show.say(f"report: {project.shown(folder / 'report.html')}")


@app.command("pii-eval")
def pii_eval(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="Labelled texts, JSON or JSON Lines: {text, spans: [{label, start, end}], template}.",
        ),
    ],
    profile: Annotated[str, typer.Option(help="hipaa-safe-harbor or gdpr.")] = "gdpr",
    side: Annotated[
        str, typer.Option(help="all, or a or b: the half of the templates (by hash) to tune on or to report.")
    ] = "all",
    lower: Annotated[bool, typer.Option("--lower", help="Write the texts small first.")] = False,
    detectors: Annotated[
        list[str] | None, typer.Option("--detector", help="One that joins the rules: presidio; repeatable.")
    ] = None,
    json: Json = False,
) -> None:
    """Measure de-identification on labelled texts.

    Recall by kind with its bound, documents that leak, precision.
    """
    from metier.actions.data import measure_privacy

    show = Show(json)
    found = measure_privacy(file, profile=profile, side=side, lower=lower, detectors=detectors or ())
    header = ["kind", "spans", "80 % covered", "at least", "all covered", "kind fits"]
    rows = [
        [r.kind, r.enough.total, *map(_percent, (r.enough.share, r.enough.bounds[0], r.full.share, r.named.share))]
        for r in found.recalls
    ]
    summary = {
        "documents": f"{found.num_documents:,} of {found.num_templates:,} templates; {found.num_repeated:,} repeated",
        "documents that leak": f"{_percent(found.leaks.share)} (at most {_percent(found.leaks.bounds[1])}); "
        f"{_percent(found.leaks_full.share)} when every character counts",
        "precision": f"{_percent(found.precision.share)} of finds (at least {_percent(found.precision.bounds[0])}), "
        f"{_percent(found.character_precision.share)} of characters",
    }
    if found.uncounted:
        named = ", ".join(f"{name} {count:,}" for name, count in found.uncounted.items())
        summary["labels not measured"] = f"{named}: they count for precision alone"
    show.result(found.to_json(), table(header, rows) + "\n\n" + pairs({**summary}))


@app.command()
def reidentify(
    source: Annotated[str, typer.Argument(metavar="DATASET | FILE", help="data:support@v3, or a file of rows.")],
    vault: Annotated[
        str | None, typer.Option("--vault", metavar="NAME", help="Default: the one that the dataset version names.")
    ] = None,
    columns: Annotated[
        list[str] | None, typer.Option("--column", metavar="NAME", help="Change these only; repeatable.")
    ] = None,
    on_terminal: Annotated[
        bool, typer.Option("--show", help="Print the rows on this terminal and write nothing.")
    ] = False,
    json: Json = False,
) -> None:
    """Put back what surrogates stand for.

    Needs the vault and its key, is recorded in the audit log, and writes below private/ for its owner alone.
    """
    from metier.actions.reidentify import reidentify as reidentify_rows
    from metier.core.project import Project

    show = Show(json)
    if on_terminal and (json or not sys.stdout.isatty()):
        raise ConfigError(
            284,
            "--show prints personal data, on a terminal only",
            received="--json" if json else "a pipe or a file",
            fix="leave --show out: the rows go to a file below private/",
        )
    project = Project.find()
    told = show.line if on_terminal else None
    done = reidentify_rows(source, project, vault_name=vault, columns=columns or (), show=told)
    value = {"source": done.source, "vault": done.vault, "rows": done.num_rows, "restored": done.num_restored}
    value |= {"open": done.num_open, "file": str(done.file) if done.file else None}
    words = {"rows": f"{done.num_rows:,}", "put back": f"{done.num_restored:,} surrogates of the vault {done.vault}"}
    words |= {"left": f"{done.num_open:,} that stand for several values"} if done.num_open else {}
    if done.file:
        show.result(value, pairs({**words, "file": f"{project.shown(done.file)}   (delete it when you are done)"}))


@vaults.command("destroy")
def destroy_vault(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The vault of the recipe of this name.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json: Json = False,
) -> None:
    """Delete a vault for ever.

    Nobody can reverse its surrogates then. They still link the rows of a person, so that the data is de-identified,
    not anonymized. Backups of the vault are yours to delete. Recorded in the audit log.
    """
    from metier.actions.reidentify import destroy_vault as destroy
    from metier.core.project import Project

    show = Show(json)
    if not yes:
        confirm(f"Destroy the vault {name}? Its surrogates can never be reversed again.")
    versions = destroy(name, Project.find())
    text = f"destroyed the vault {name}; of these versions nobody can reverse the surrogates: {', '.join(versions)}"
    show.result({"destroyed": name, "versions": versions}, text if versions else f"destroyed the vault {name}")


def _percent(share: float) -> str:
    return "–" if share != share else f"{100 * share:.1f} %"


def _before_after(
    sources: list[dict[str, Any]], quarantine: dict[str, Any], steps: list[dict[str, Any]], counts: dict[str, int]
) -> str:
    """Return the rows before and after: what was read, each step with its counts, the division where it refused rows,
    and what was written."""
    late = int(quarantine.get("in_division", 0))
    unread = int(quarantine["rows"]) - late
    # A version of before they were counted has what its sources say, and the rest.
    num_read = int(quarantine.get("num_rows", sum(int(source["rows"]) for source in sources) + unread))
    rows = [("read", f"{num_read:,}", f"{num_read - unread:,}", "", f"{unread:,} to quarantine")]
    for step in steps:
        change = int(step.get("characters_out", 0)) - int(step.get("characters_in", 0))
        shown = f"{change:+,}" if change else ""
        name = step["name"] + (" (train)" if step.get("after_split") else "")
        rows.append((name, f"{step['rows_in']:,}", f"{step['rows_out']:,}", shown, step["note"]))
    if late:
        before = [int(step["rows_out"]) for step in steps if not step.get("after_split")]
        left = before[-1] if before else num_read - unread
        rows.insert(1 + len(before), ("divided", f"{left:,}", f"{left - late:,}", "", f"{late:,} to quarantine"))
    divided = ", ".join(f"{split} {n:,}" for split, n in counts.items())
    rows.append(("written", "", f"{sum(counts.values()):,}", "", divided))
    return table(("step", "before", "after", "characters", ""), rows)


def _for_recipe(fix: str, words: list[str] | None) -> str:
    """Return a command with the recipe that the user named."""
    named = next((w for w in words or () if "=" not in w), None)
    return fix.replace("metier data prepare", f"metier data prepare {shlex.quote(named)}", 1) if named else fix


def _as_written(source: str, root: Path) -> str:
    """A path as a recipe holds it: relative to the project where it lies inside, absolute elsewhere."""
    if source.startswith(("hf:", "$", "~")):
        return source
    path = Path.cwd() / source
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)


def _pair(text: str) -> tuple[str, str]:
    name, equals, column = text.partition("=")
    if not (name and equals and column):
        raise ConfigError(207, "--map takes NAME=COLUMN", received=text, expected="NAME=COLUMN", fix="--map text=body")
    return name, column
