"""The command line, put together: which commands there are, and how it ends.

Nothing heavy is imported here: every command imports what it needs when it runs, and help is plain text, since
rich's help alone would double the time of `metier --help` (LOG.md has the figures).

Exit codes: 0 ok · 1 bug, with a traceback · 2 config or usage · 3 data · 4 machine · 5 gate · 6 permission ·
130 interrupted · 141 the reader of stdout went away · 143 terminated.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from typing import Annotated

import typer
from typer.core import TyperGroup

from metier import __version__
from metier.cli import audit, catalog, data, erase, evaluate, models, project, runs, train
from metier.cli.show import Show, style, typed
from metier.core.errors import ConfigError, MetierError

INTERRUPTED = 130

JOURNEY = (
    *("demo", "init", "data", "plan", "train", "runs", "evaluate", "compare", "report"),
    *("predict", "chat", "models", "erase", "catalog", "audit", "doctor"),
)


class Journey(TyperGroup):
    """Lists the commands in the order in which they are used."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        """Return the names for the help page."""
        return sorted(self.commands, key=JOURNEY.index)


app = typer.Typer(
    name="metier",
    cls=Journey,
    help="Turn a general language model into a specialist, and prove that it is one.",
    epilog="Start with `metier demo`, or with your own rows: `metier init --data FILE`.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


def _print_version(asked: bool) -> None:
    if asked:
        sys.stdout.write(f"metier {__version__}\n")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    pass


app.command()(project.demo)
app.command()(project.init)
app.add_typer(data.app, name="data")
app.command()(train.plan)
app.command()(train.train)
app.add_typer(runs.app, name="runs")
app.command()(evaluate.evaluate)
app.command()(evaluate.compare)
app.command()(evaluate.report)
app.command()(models.predict)
app.command()(models.chat)
app.add_typer(models.app, name="models")
app.command()(erase.erase)
app.add_typer(catalog.app, name="catalog")
app.add_typer(audit.app, name="audit")
app.command()(project.doctor)


def run(argv: Sequence[str]) -> int:
    """Run one command line and return its exit code; a bug raises.

    With `--json` an error is printed on stdout as `{"error": {…}}`, besides the talk on stderr; not where the result is
    there already (`evaluate --gate`, `doctor`): stdout is one JSON document.
    """
    Show.printed, Show.elsewhere = False, None
    try:
        code = app(args=list(argv), prog_name="metier", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except MetierError as error:
        if error.exit_code == 1:
            raise
        return _refuse(error, argv)
    except typer.TyperException as error:
        message = error.format_message()
        if message.startswith("Usage:"):  # a group without a command: the message is its help
            sys.stderr.write(message + "\n")
            return ConfigError.digit
        context: typer.Context | None = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "metier"
        return _refuse(ConfigError(258, message.rstrip("."), place=command, fix=f"{command} --help"), argv)
    except typer.Abort:
        return INTERRUPTED


def _refuse(error: MetierError, argv: Sequence[str]) -> int:
    if "--json" in argv and not Show.printed:
        with contextlib.suppress(typer.Exit):  # nobody reads any more: the error's own code is the better one
            Show(json=True).result({"error": error.to_json()})
    head, *rest = typed(str(error)).split("\n")
    sys.stderr.write("\n".join([style(head, "red"), *rest]) + "\n")
    return error.exit_code


def main() -> None:
    """Run `metier` with the process's arguments and exit."""
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
