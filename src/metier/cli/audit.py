"""`metier audit show|verify`."""

from __future__ import annotations

from typing import Annotated

import typer

from metier.cli.flags import Json
from metier.cli.show import Show, table
from metier.core.errors import PermissionDenied

app = typer.Typer(help="Read and verify the log of who did what.", no_args_is_help=True)


@app.command("show")
def show_records(
    last: Annotated[int, typer.Option("--last", "-n", min=1, help="How many of the newest records.")] = 50,
    json: Json = False,
) -> None:
    """Print the newest records of the audit log, oldest first."""
    from metier.core import audit
    from metier.core.project import Project

    show = Show(json)
    found = list(audit.records(Project.find()))[-last:]
    rows = [
        (r.get("seq"), str(r.get("time", ""))[:19], r.get("who"), r.get("action"), _fields(r.get("fields") or {}))
        for r in found
    ]
    show.result(found, table(("no.", "time (UTC)", "who", "action", "what"), rows) if rows else "")
    if not rows:
        show.say("Nothing is recorded yet.")


@app.command()
def verify(json: Json = False) -> None:
    """Check the hash chain of the audit log.

    Exits with 6 when a record was edited, deleted, inserted, moved, or the log was shortened or rewritten.
    """
    from metier.core import audit
    from metier.core.project import Project

    show = Show(json)
    project = Project.find()
    findings = audit.verify(project)
    count = sum(1 for _ in audit.records(project))
    value = {"whole": not findings, "records": count, "findings": findings}
    show.result(value, "\n".join(f"{f.kind:<11}{f.place}  {f.what}" for f in findings) or f"whole: {count} records")
    if findings:
        raise PermissionDenied(
            650,
            f"The audit log does not verify: {', '.join(sorted({f.kind for f in findings}))}",
            place=str(project.audit_file),
            fix="compare it with a backup; records after the first finding prove nothing",
        )


def _fields(fields: dict[str, object]) -> str:
    return " ".join(f"{name}={value}" for name, value in fields.items())
