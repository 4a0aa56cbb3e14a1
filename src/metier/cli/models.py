"""`metier predict`, `chat` and `models export`."""

from __future__ import annotations

import enum
import json as jsonlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from metier.cli import locate
from metier.cli.flags import Json, PolicyRef, Seed, Temperature, TopP
from metier.cli.progress import counting
from metier.cli.show import Show, pairs, style
from metier.core.errors import ConfigError, DataError

if TYPE_CHECKING:
    from metier.actions.question import Question

PROMPT_CHARS = 200
"""Characters of a run's prompt that chat shows."""

app = typer.Typer(help="Export models.", no_args_is_help=True)


class ExportForm(enum.StrEnum):
    """The layout of an export."""

    hf = "hf"
    peft = "peft"


class Other(enum.StrEnum):
    """Whom `chat` answers beside."""

    base = "base"


def predict(
    ref: PolicyRef,
    texts: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TEXT",
            help="Inputs, for the one column that the run's prompt names; without any, lines from stdin.",
            show_default=False,
        ),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file", help="JSONL with one object per line (the recipe's columns), or text with one input per line."
        ),
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Cap on a completion, in tokens.")] = 128,
    temperature: Temperature = None,
    top_p: TopP = None,
    seed: Seed = None,
    json: Json = False,
) -> None:
    """Answer inputs with a run, one line per input.

    An empty line of a file or stdin is none, and stays empty. With --json the answers are objects with label
    probabilities or token counts, and with the line of a file or stdin; line breaks are kept. --temperature,
    --top-p and --seed are for runs that write text; a run that chooses among labels refuses them.
    """
    from metier.actions import models as actions
    from metier.core.page import visible

    show = Show(json)
    project, _, ref = locate.policy(ref)
    inputs, lines = _inputs(texts, file)
    with counting(show.say) as progress:
        answers = actions.predict(
            project,
            ref,
            inputs,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
            places=[f"{file.name if file else 'stdin'}:{line}" for line in lines],
            progress=progress,
        )
    if num_cut := sum(bool(answer.get("cut_tokens")) for answer in answers):
        show.say(f"{num_cut:,} of {len(answers):,} inputs are too long: the model has read them in part")
    numbered = dict(zip(lines or range(1, len(answers) + 1), answers, strict=True))
    outputs = {n: visible(str(answer.get("output", ""))).replace("\n", "\\n") for n, answer in numbered.items()}
    show.result(
        [{"line": n, **answer} for n, answer in numbered.items()] if lines else answers,
        "\n".join(outputs.get(n, "") for n in range(1, max(outputs, default=0) + 1)),
    )


def chat(
    ref: PolicyRef = "last",
    vs: Annotated[Other | None, typer.Option("--vs", help="`base`: the untouched base answers too.")] = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    seed: Seed = None,
    json: Json = False,
) -> None:
    """Talk to a run, and to its untouched base beside it.

    One line at a time; an empty line or Ctrl+D ends the conversation. A run whose recipe has data.prompt is asked by
    that prompt: what you type fills its column (a line per column where it names several), and each message is a
    question of its own. With --json one object per message and line.
    """
    from metier.actions import models as actions
    from metier.core.page import visible

    show = Show(json)
    project, run, ref = locate.policy(ref)
    with counting(show.say) as progress:
        session = actions.chat(project, ref, temperature=temperature, top_p=top_p, seed=seed, progress=progress)
    for line in _opening(run.number, session.question):
        show.say(line)
    while asked := _asked(session.question.columns):
        answers = {"run": session.reply(asked)}
        if session.cut_tokens:
            show.say(f"the conversation is too long: its first {session.cut_tokens:,} tokens were left out")
        if vs is not None:
            answers["base"] = session.base_reply(asked)
        if json:
            show.line({"input": asked, **answers})
            continue
        label = {"run": f"run {run.number}", "base": "base"}
        told = {style(label[name], "bold", stream=sys.stdout): visible(answer) for name, answer in answers.items()}
        show.result(None, "\n".join(f"{name}  {answer}" for name, answer in told.items()))


@app.command()
def export(
    ref: PolicyRef = "last",
    to: Annotated[Path | None, typer.Option("--to", help="Directory to write; must not exist or be empty.")] = None,
    form: Annotated[
        ExportForm, typer.Option("--form", help="`hf`: merged weights for transformers; `peft`: the adapter alone.")
    ] = ExportForm.hf,
    json: Json = False,
) -> None:
    """Write a run's model for other tools, with its certificate.

    The certificate compares log-probabilities in a fresh process that knows nothing of Metier.
    """
    from metier.actions import models as actions

    show = Show(json)
    project, run, ref = locate.policy(ref)
    folder = to or project.models_dir / f"{run.status().get('name', 'model')}-run{run.number}-{form.value}"
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(
            255, "The directory to export to is not empty", place=str(folder), fix="metier models export --to DIRECTORY"
        )
    with counting(show.say) as progress:
        written = actions.export(project, ref, folder, form=form.value, progress=progress)
    show.result({"path": str(folder), **written}, f"{project.shown(folder)}\n{pairs(_readable(written))}")


def _readable(written: dict[str, Any]) -> dict[str, Any]:
    """The certificate in words."""
    parity = written["parity"]
    if parity is None:
        return {**written, "parity": "no certificate: gates.parity is optional"}
    said = f"passed in a fresh process: {parity['compared']} differ by at most {parity['max_difference']:.2g}"
    if parity["greedy_rows"]:
        said += f", {parity['greedy_equal']} of {parity['greedy_rows']} greedy continuations are equal"
    return {**written, "parity": said}


def _inputs(texts: list[str] | None, file: Path | None) -> tuple[list[str | dict[str, Any]], list[int]]:
    """Inputs from the arguments, a file or stdin; of the latter two with the number of the line of each."""
    if texts:
        return list(texts), []
    if file is None and sys.stdin.isatty():
        raise ConfigError(
            256,
            "There is nothing to answer",
            expected="TEXT, --file FILE or lines on stdin",
            fix="metier predict RUN 'a text'",
        )
    try:
        content = sys.stdin.read() if file is None else file.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            380,
            "The inputs cannot be read",
            place=str(file or "stdin"),
            received=type(error).__name__,
            fix="name a UTF-8 text file that can be read",
        ) from None
    # Not `splitlines`: a form feed or a line separator is part of a text.
    lines = enumerate((line.removesuffix("\r") for line in content.split("\n")), start=1)
    numbered = {number: line for number, line in lines if line.strip()}
    if file is None or file.suffix.lower() not in (".jsonl", ".ndjson"):
        return list(numbered.values()), list(numbered)
    return [_object(line, f"{file.name}:{number}") for number, line in numbered.items()], list(numbered)


def _object(line: str, place: str) -> dict[str, Any]:
    try:
        value = jsonlib.loads(line)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise DataError(
            381,
            "The line is not a JSON object",
            place=place,
            expected="one object per line",
            fix='write it as {"text": "…"}, or give the file another ending than .jsonl: then each line is a text',
        )
    return value


def _opening(number: int, question: Question) -> list[str]:
    """What chat says before the first message."""
    if not question.once:
        return [f"run {number}; an empty line ends the conversation"]
    first = f"run {number} answers one question, asked as in training: each message starts anew, an empty line ends"
    written = jsonlib.dumps(question.prompt.user, ensure_ascii=False)
    lines = [first, f"prompt  {written if len(written) <= PROMPT_CHARS else written[:PROMPT_CHARS] + '…'}"]
    if len(question.columns) > 1:
        lines.append(f"type    a line each for {', '.join(question.columns)}")
    return lines


def _asked(columns: Sequence[str]) -> str | dict[str, str]:
    """The next message: a line, or a line per column; nothing at the end. Columns that do not come are left out."""
    if len(columns) == 1:
        return _line("you") or ""
    answers: dict[str, str] = {}
    for name in columns:
        line = _line(name)
        if line is None or not (line or answers):
            break
        answers[name] = line
    return answers


def _line(name: str) -> str | None:
    """A line from stdin, None at its end."""
    sys.stderr.write(style(f"{name}  ", "cyan") if sys.stdin.isatty() else "")
    sys.stderr.flush()
    line = sys.stdin.readline()
    return line.strip() if line else None
