"""Render a conversation through a chat template, without trusting the template.

A chat template is code that came with somebody's model. It runs in jinja2's immutable sandbox, and this file closes
what that sandbox leaves open: a loop that never ends, a string that grows without bound, a clock (two days would give
two token sequences for one row: here the clock stands still). What is left out: a limit on jinja's own parser, which
sees at most MAX_SOURCE_CHARS.
"""

from __future__ import annotations

import functools
import itertools
import json
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from importlib import resources
from typing import Any

from jinja2 import TemplateError, Undefined, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

MAX_SOURCE_CHARS = 262_144
MAX_OUTPUT_CHARS = 67_108_864
MAX_NUMBER = 1_000_000
MAX_SECONDS = 5.0
STANDING_CLOCK = datetime(2024, 7, 26)
"""What `strftime_now` sees: a date in the prompt must not change the tokens of a row from one day to the next."""


class TemplateRefusal(Exception):
    """The template could not or would not render; the message holds no content of the conversation."""


class TemplateOverrun(TemplateError):
    """A limit of this file was passed."""


def builtin_names() -> list[str]:
    """Return the names of the templates that ship with Metier: the files in data/templates."""
    folder = resources.files("metier.data") / "templates"
    return sorted(f.name.removesuffix(".jinja") for f in folder.iterdir() if f.name.endswith(".jinja"))


def builtin_source(name: str) -> str:
    """Return the source of a shipped template, such as `chatml` or `plain`."""
    return (resources.files("metier.data") / "templates" / f"{name}.jinja").read_text(encoding="utf-8")


class Renderer:
    """One compiled chat template.

    Args:
        source: the Jinja source.
        variables: what the template may use besides the conversation, such as `bos_token`.

    Raises:
        TemplateRefusal: the source is too long or is not valid Jinja.
    """

    def __init__(self, source: str, variables: Mapping[str, str]) -> None:
        if len(source) > MAX_SOURCE_CHARS:
            raise TemplateRefusal(f"the template has {len(source)} characters, more than {MAX_SOURCE_CHARS}")
        self.source = source
        self._variables = dict(variables)
        self._template, self._environment = _compile(source)

    def __call__(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] = (),
        *,
        reply_follows: bool = False,
    ) -> str:
        """Return the text of a conversation; `reply_follows` ends it where an assistant's reply would begin.

        Raises:
            TemplateRefusal: the template raised, met a value it cannot use, or passed a limit.
        """
        self._environment.start()
        try:
            return str(
                self._template.render(
                    **self._variables,
                    messages=list(messages),
                    tools=list(tools) or None,
                    documents=None,
                    add_generation_prompt=reply_follows,
                )
            )
        except TemplateOverrun as error:
            raise TemplateRefusal(str(error)) from None
        except TemplateError as error:
            # The template writes this sentence; it may quote the row. Only words of the template itself are shown.
            said = str(error)
            raise TemplateRefusal(said if said and said in self.source else type(error).__name__) from None
        except (
            TypeError,
            ValueError,
            KeyError,
            IndexError,
            AttributeError,
            RecursionError,
            ZeroDivisionError,
        ) as error:
            raise TemplateRefusal(f"{type(error).__name__} inside the template") from None


class _Environment(ImmutableSandboxedEnvironment):
    """The sandbox with limits on time and size."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _GenerationTag])
        self._state = threading.local()
        self.filters = {name: _limited(name, function) for name, function in self.filters.items()}
        self.filters["tojson"] = _to_json
        self.globals["raise_exception"] = _raise
        self.globals["strftime_now"] = STANDING_CLOCK.strftime

    def start(self) -> None:
        """Begin the time of one render."""
        self._state.deadline = time.monotonic() + MAX_SECONDS
        self._state.ticks = 0

    def tick(self) -> str:
        """Stop a render that takes too long; called in each turn of each loop and macro."""
        self._state.ticks += 1
        if self._state.ticks % 256 == 0 and time.monotonic() > self._state.deadline:
            raise TemplateOverrun(f"the template ran longer than {MAX_SECONDS:g} s")
        return ""

    def joined(self, *parts: Any) -> str:
        """Do what `~` does, within the limit."""
        text = "".join(str(part) for part in parts)
        _check_size(len(text))
        return text

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Refuse arithmetic whose result would be huge."""
        if operator == "+" and isinstance(left, str | list | tuple) and isinstance(right, str | list | tuple):
            _check_size(len(left) + len(right))
        elif operator == "*":
            _check_product(left, right)
        elif operator == "**":
            _check_numbers((left, right), 64)
        elif operator == "%" and isinstance(left, str):
            _check_format(left)
        return super().call_binop(context, operator, left, right)

    # jinja2 names the receiver of `call` so that a keyword argument can never collide with it.
    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Call a function or method for the template, with bounded arguments."""
        _check_numbers((*args, *kwargs.values()), MAX_NUMBER)
        method = getattr(__obj, "__wrapped__", __obj)  # the sandbox wraps str.format
        owner, name = getattr(method, "__self__", None), getattr(method, "__name__", "")
        if isinstance(owner, str):
            if name == "join" and args:
                args = (_listed(args[0]), *args[1:])
            _check_growth(name, owner, args)
        return super().call(__context, __obj, *args, **kwargs)


class _GenerationTag(Extension):
    """`{% generation %}…{% endgeneration %}` renders what it holds: our masks do not depend on it."""

    tags = {"generation"}  # noqa: RUF012 (jinja2 declares it as an instance variable)

    def parse(self, parser: Parser) -> nodes.Node:
        """Read the block."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


class _Limits(NodeTransformer):
    """Write the limits into the template's syntax tree, where the template cannot shadow them."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        return self._with_tick(node)

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:
        return self._with_tick(node)

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        joined = nodes.EnvironmentAttribute("joined", lineno=node.lineno)
        return nodes.Call(joined, node.nodes, [], None, None, lineno=node.lineno)

    def _with_tick(self, node: Any) -> nodes.Node:
        self.generic_visit(node)
        tick = nodes.Call(nodes.EnvironmentAttribute("tick"), [], [], None, None)
        node.body.insert(0, nodes.Output([tick], lineno=node.lineno))
        return node  # type: ignore[no-any-return]


@functools.lru_cache(maxsize=32)
def _compile(source: str) -> tuple[Any, _Environment]:
    environment = _Environment()
    try:
        tree = _Limits().visit(environment.parse(source))
        tree.set_environment(environment)
        code = environment.compile(tree)
    except TemplateError as error:
        line = getattr(error, "lineno", None)
        raise TemplateRefusal(f"the template is not valid Jinja{f' (line {line})' if line else ''}") from None
    except RecursionError:
        raise TemplateRefusal("the template is nested too deeply") from None
    return environment.template_class.from_code(environment, code, environment.make_globals(None)), environment


# ───────────────────────────────────────────────────────────────────────────── what templates may call


def _raise(message: Any) -> None:
    raise TemplateError(str(message))


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own filter escapes for HTML; chat templates expect plain JSON.
    _check_numbers((indent,), 64)
    if isinstance(value, Undefined):
        raise TemplateError("tojson of an undefined value")
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _limited(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        _check_numbers((*args, *kwargs.values()), MAX_NUMBER)
        skipped = 1 if hasattr(function, "jinja_pass_arg") else 0  # jinja's own first argument
        values = list(args[skipped:])
        if name == "format" and values and isinstance(values[0], str):
            _check_format(values[0])
        elif name == "replace" and values:
            _check_growth(name, values[0], values[1:])
        elif name == "join" and values:
            values[0] = _listed(values[0])
            _check_growth(name, values[1] if len(values) > 1 else kwargs.get("d", ""), values[:1])
            args = (*args[:skipped], *values)
        return function(*args, **kwargs)

    return call


# ───────────────────────────────────────────────────────────────────────────── limits


def _check_size(size: int) -> None:
    if size > MAX_OUTPUT_CHARS:
        raise TemplateOverrun(f"the template made a text over {MAX_OUTPUT_CHARS} characters")


def _check_numbers(values: Sequence[Any], limit: int) -> None:
    for value in values:
        if type(value) in (int, float) and abs(value) > limit:
            raise TemplateOverrun(f"the template used a number over {limit} as a size")


def _check_product(left: Any, right: Any) -> None:
    for sized, times in ((left, right), (right, left)):
        if isinstance(sized, str | list | tuple) and isinstance(times, int):
            _check_size(len(sized) * times)
    if isinstance(left, int) and isinstance(right, int) and left.bit_length() + right.bit_length() > 4096:
        raise TemplateOverrun("the template made a number of over 4096 bits")


def _check_format(pattern: str) -> None:
    if re.search(r"\d{6,}|\*", pattern):
        raise TemplateOverrun("the template formats to a width over its limit")


def _listed(values: Any) -> list[Any]:
    """Return what is to be joined as a list, so that it can be counted first."""
    found = list(itertools.islice(values, MAX_NUMBER + 1))
    _check_numbers((len(found),), MAX_NUMBER)
    return found


def _check_growth(name: str, owner: Any, args: Sequence[Any]) -> None:
    """Bound the result of the string methods that can multiply their input."""
    if name == "replace" and len(args) >= 2:
        old, new = str(args[0]), str(args[1])
        _check_size((len(str(owner)) // max(len(old), 1) + 1) * len(new))
    elif name == "join" and args and isinstance(args[0], list | tuple):
        _check_size((len(str(owner)) + 1) * len(args[0]))
    elif name in ("format", "format_map"):
        _check_format(str(owner).replace("*", ""))
