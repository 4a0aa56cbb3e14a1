"""`metier erase`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from metier.cli.flags import Json
from metier.cli.progress import counting
from metier.cli.show import Show, confirm, pairs, table


def erase(
    subject: Annotated[
        str,
        typer.Option("--subject", metavar="KEY", help="Value of the column that permission.subject_key names."),
    ],
    also: Annotated[
        list[str] | None,
        typer.Option("--also", metavar="TEXT", help="A further text that identifies the person; repeatable."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done; change nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json: Json = False,
) -> None:
    """Erase a person from the project, prove it and certify it.

    Rows go from sources inside the project, dataset versions, quarantine, vaults, caches, predictions and reports. Runs
    and exported models that saw them are listed and marked. A byte scan of the whole project must then find nothing.
    """
    from metier.actions import erase as actions
    from metier.core.project import Project

    show = Show(json)
    project = Project.find()
    with counting(show.say) as progress:
        prepared = actions.prepare(project, subject, also or [], progress)
    plan = prepared.to_json()
    if dry_run:
        show.result(plan, _plan(plan))
        show.next("metier erase --subject KEY")
        return
    if not yes:
        show.say(_plan(plan))
        confirm("Erase this for good?")
    with counting(show.say) as progress:
        certificate = actions.erase(project, prepared, progress)
    file = project.root / "erasures" / f"{certificate['certificate']}.json"
    show.result(certificate, _done(certificate) + f"\n\n{project.shown(file)}")
    for run in certificate["runs"]:
        show.next(f"metier runs resume {run['run']} --fork")


def _plan(plan: dict[str, Any]) -> str:
    rows = [(entry["store"], entry["num"], ", ".join(entry["files"])) for entry in plan["found"]]
    text = table(("store", "found", "where"), rows) if rows else "nothing is left to erase"
    return text + "\n\n" + _seen(plan)


def _done(certificate: dict[str, Any]) -> str:
    rows = [(entry["store"], entry["num"], ", ".join(entry["files"])) for entry in certificate["removed"]]
    scan = certificate["scan"]
    text = table(("store", "erased", "where"), rows) if rows else "nothing was left to erase"
    said = pairs({"byte scan": f"{scan['hits']} hits in {scan['files']:,} files, {scan['bytes']:,} bytes"})
    return "\n\n".join([text, _seen(certificate), said])


def _seen(facts: dict[str, Any]) -> str:
    return pairs(
        {
            "versions": ", ".join(version["ref"] for version in facts["versions"]),
            "runs that saw the rows": ", ".join(str(run["run"]) for run in facts["runs"]) or "none",
            "models": ", ".join(model["to"] for model in facts["models"]) or "none",
            "outside, not changed": ", ".join(facts["outside"]),
            "not looked through": "; ".join(facts["not_scanned"]),
        }
    )
