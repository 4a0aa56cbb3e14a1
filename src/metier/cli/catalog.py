"""`metier catalog ls|show`: every plug-in with its options, read from the folders themselves."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from metier.cli.flags import Json
from metier.cli.show import Show, style, table

if TYPE_CHECKING:
    from metier.core.catalog import Options

app = typer.Typer(help="List methods, adapters, formats, steps, metrics.", no_args_is_help=True)


@app.command("ls")
def list_kinds(
    name: Annotated[str | None, typer.Argument(metavar="CATALOG", help="Only this catalog.")] = None,
    json: Json = False,
) -> None:
    """List the plug-ins of every catalog, or of one."""
    from metier.core.catalog import PACKAGES, catalog

    chosen = [catalog(name)] if name else [catalog(n) for n in PACKAGES]
    found = {c.name: {kind: c.summary(kind) for kind in c.names()} for c in chosen}
    text = "\n\n".join(
        style(title, "bold", stream=sys.stdout)
        + "\n"
        + "\n".join(f"  {kind:<20}{summary}" for kind, summary in kinds.items())
        for title, kinds in found.items()
        if kinds
    )
    Show(json).result(found, text)


@app.command("show")
def show_kind(
    name: Annotated[str, typer.Argument(metavar="CATALOG", help="Such as `adapters`.")],
    kind: Annotated[str, typer.Argument(metavar="KIND", help="Such as `lora`.")],
    json: Json = False,
) -> None:
    """Show one plug-in and its options."""
    import inspect

    from metier.core.catalog import catalog

    plugin = catalog(name).get(kind)
    schema: type[Options] = plugin.Options
    rows = option_rows(schema)
    text = f"{style(kind, 'bold', stream=sys.stdout)}  {plugin.summary}\n\n{inspect.getdoc(plugin) or ''}\n"
    if rows:
        text += "\n" + table(("option", "type", "default", "meaning"), rows)
    Show(json).result(
        {"catalog": name, "kind": kind, "summary": plugin.summary, "options": schema.model_json_schema()}, text
    )


def option_rows(schema: type[Options]) -> list[tuple[str, str, str, str]]:
    """Return name, type, default and meaning of a plug-in's options, limits included."""
    from metier.core.catalog import type_of

    described: dict[str, Any] = schema.model_json_schema()
    rows = []
    for name, info in described.get("properties", {}).items():
        required = name in described.get("required", [])
        default = "required" if required else _short(schema.model_fields[name].get_default(call_default_factory=True))
        rows.append((name, type_of(info, described.get("$defs", {})), default, str(info.get("description", ""))))
    return rows


def _short(value: object) -> str:
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= 40 else text[:39] + "…"
