"""Arguments that several commands share, so that one word means one thing."""

from __future__ import annotations

from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print data as JSON on stdout, errors too.")]
Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="RECIPE | KEY=VALUE",
        help="A recipe file (may be left out where the project has one only) and keys to set, such as training.seed=1.",
        show_default=False,
    ),
]
RunRef = Annotated[str, typer.Argument(metavar="RUN", help="A run: its number, `last`, or its directory.")]
PolicyRef = Annotated[
    str,
    typer.Argument(metavar="RUN", help="A run: its number, `last` or directory; `12@last`: a checkpoint."),
]
Temperature = Annotated[
    float | None,
    typer.Option(min=0, help="Draw tokens, the more freely the higher (such as 0.7); default: the likeliest token."),
]
TopP = Annotated[
    float | None,
    typer.Option("--top-p", min=0, max=1, help="Draw among the likeliest tokens that together hold this probability."),
]
Seed = Annotated[int | None, typer.Option(min=0, help="Of the draws; default 0. The same seed, the same text.")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Keys to set.", show_default=False)]
