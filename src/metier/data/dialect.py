"""What one chat template does, found out by rendering probes instead of guessing from its name.

Templates differ: some have no system role, some ignore `add_generation_prompt`, some want tool arguments as text.
`Dialect` asks each question once, with words that occur in no template, and from then on writes conversations so that
nothing of them is lost. What it had to change (a system message folded into the user's) it counts, never hides.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from metier.core.errors import ConfigError
from metier.core.types import Message, ToolCall
from metier.data.render import Renderer, TemplateRefusal, builtin_names, builtin_source
from metier.data.tokenizer import FastTokenizer

_ASK, _SAY, _RULE, _CALL = "ZQaskZQ", "ZQsayZQ", "ZQruleZQ", "ZQcallZQ"


class Dialect:
    """A chat template and what it does.

    Args:
        source: the Jinja source.
        variables: special tokens by name, such as `bos_token`.

    Raises:
        ConfigError: E241, the template cannot write a question and an answer.
    """

    def __init__(self, source: str, variables: Mapping[str, str]) -> None:
        try:
            self._render = Renderer(source, variables)
        except TemplateRefusal as error:
            raise _unfit(str(error)) from None
        self.source = source
        self.parts_only = False
        self.folds_system = False
        self.developer_is_system = False
        self.arguments_as_text = False
        self.opening = ""
        """What stands between a prompt and its reply where the template ignores `add_generation_prompt`."""
        self.lead = ""
        """What the template writes before the content of a reply, after the prompt; the model has to produce it."""
        self.tail = ""
        """What the template writes after the content of the last reply: the end-of-turn token is in here."""
        self.tool_tail = ""
        """The same after a tool call; empty where the template has no tool calls."""
        self._ask()

    def adapt(self, messages: Sequence[Message], notes: Counter[str] | None = None) -> tuple[Message, ...]:
        """Return the messages in roles that the template has; changes are counted in `notes`.

        A system message goes in front of the user message after it, or becomes a user message of its own.
        """
        found: list[Message] = []
        waiting: Message | None = None
        for message in messages:
            if message.role == "developer" and self.developer_is_system:
                message = replace(message, role="system")
                _count(notes, "developer message written as system message")
            if waiting is not None:
                if message.role == "user":
                    message = replace(message, content=f"{waiting.text}\n\n{message.text}")
                else:
                    found.append(waiting)
                waiting = None
            if message.role == "system" and self.folds_system:
                waiting = replace(message, role="user")
                _count(notes, "system message folded into the user message: the template has no system role")
                continue
            found.append(message)
        return (*found, waiting) if waiting is not None else tuple(found)

    def whole(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> str:
        """Return the text of adapted messages.

        Raises:
            TemplateRefusal: the template will not write them.
        """
        return self._render([self._plain(m) for m in messages], tools)

    def prompt(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> str:
        """Return the text of adapted messages up to where an assistant's reply begins.

        Raises:
            TemplateRefusal: the template will not write them.
        """
        return self._render([self._plain(m) for m in messages], tools, reply_follows=True) + self.opening

    # ── the questions ──

    def _ask(self) -> None:
        user = Message("user", _ASK)
        if _ASK not in self._try([user]):
            self.parts_only = True
            if _ASK not in self._try([user]):
                raise _unfit("it does not write a user message")
        self.folds_system = not self._has_role("system")
        self.developer_is_system = not self._has_role("developer")
        exchange = self._try([user, Message("assistant", _SAY)])
        if _SAY not in exchange:
            raise _unfit("it does not write an assistant message")
        self.tail = exchange.rpartition(_SAY)[2]
        self._ask_prompt(user, exchange)
        if "tool_calls" in self.source:
            self._ask_tools(user)

    def _ask_prompt(self, user: Message, exchange: str) -> None:
        bare, prompt = self._try([user]), self._try([user], reply_follows=True)
        if not exchange.startswith(prompt):
            return  # conversations will be refused with E350, which can name the row
        between = exchange[len(prompt) : exchange.index(_SAY)]
        if bare == prompt and between.strip():
            self.opening = between.rstrip(" ")  # a trailing space belongs to the first word of the reply
            self.lead = between[len(self.opening) :]
        else:
            self.lead = between

    def _ask_tools(self, user: Message) -> None:
        call = Message("assistant", "", tool_calls=(ToolCall("find", {"q": _CALL}, f'{{"q": "{_CALL}"}}'),))
        text = self._try([user, call])
        if _CALL not in text:
            self.arguments_as_text = True
            text = self._try([user, call])
        if _CALL in text:
            self.tool_tail = text.rpartition(_CALL)[2]
        else:
            self.arguments_as_text = False

    def _has_role(self, role: Any) -> bool:
        return _RULE in self._try([Message(role, _RULE), Message("user", _ASK)])

    def _try(self, messages: Sequence[Message], *, reply_follows: bool = False) -> str:
        """Return the render of a probe, or nothing where the template refuses it: that is the answer."""
        try:
            return self._render([self._plain(m) for m in messages], reply_follows=reply_follows)
        except TemplateRefusal:
            return ""

    # ── messages as templates expect them ──

    def _plain(self, message: Message) -> dict[str, Any]:
        content: Any = message.text
        if self.parts_only:
            parts = (message.content,) if isinstance(message.content, str) else message.content
            content = [{"type": "text", "text": part} for part in parts]
        value: dict[str, Any] = {"role": message.role, "content": content}
        if message.reasoning:
            # Two names for one thing: most templates read the first, gpt-oss the second.
            value |= {"reasoning_content": message.reasoning, "thinking": message.reasoning}
        if message.tool_calls:
            value["tool_calls"] = [self._plain_call(call) for call in message.tool_calls]
        if message.tool_call_id is not None:
            value["tool_call_id"] = message.tool_call_id
        if message.name is not None:
            value["name"] = message.name
        return value

    def _plain_call(self, call: ToolCall) -> dict[str, Any]:
        arguments: Any = call.arguments_text if self.arguments_as_text else dict(call.arguments)
        return {
            **({"id": call.id} if call.id else {}),
            "type": "function",
            "function": {"name": call.name, "arguments": arguments},
        }


def _count(notes: Counter[str] | None, what: str) -> None:
    if notes is not None:
        notes[what] += 1


def _unfit(why: str) -> ConfigError:
    return ConfigError(
        241,
        f"The chat template cannot be used: {why}",
        expected="a template that writes a user message and an assistant message",
        fix="set model.chat_template to `plain`, `chatml` or a Jinja file",
    )


def choose(fast: FastTokenizer, tokenizer: Any, chat_template: str | None) -> Dialect | None:
    """Return the dialect of a recipe's `model.chat_template`, else of the tokenizer, else None.

    Args:
        fast: the tokenizer's core.
        tokenizer: the Hugging Face tokenizer.
        chat_template: name of a shipped template, Jinja source, or None.

    Raises:
        ConfigError: E241, the template cannot be used with this tokenizer.
    """
    own = tokenizer.chat_template
    source = chat_template if chat_template is not None else own.get("default") if isinstance(own, dict) else own
    if source is None:
        return None
    variables = fast.special_texts()
    if source in builtin_names():
        needed = ["<|im_start|>", "<|im_end|>"] if source == "chatml" else [tokenizer.eos_token or "end of sequence"]
        missing = [text for text in needed if not fast.is_added(text)]
        if missing:
            raise _unfit(f"`{source}` needs the token {missing[0]}, which this tokenizer does not have")
        # A shipped template writes BOS exactly where the tokenizer itself would.
        variables["bos_token"] = variables.get("bos_token", "") if fast.adds_bos() else ""
        source = builtin_source(source)
    elif "{" not in source:
        near = difflib.get_close_matches(source, builtin_names(), n=1)
        raise ConfigError(
            241,
            f"There is no chat template `{source}`" if len(source) <= 60 else "The chat template holds no Jinja",
            expected=f"{', '.join(builtin_names())}, or a Jinja file",
            fix=f"Did you mean `{near[0]}`?" if near else "set model.chat_template to one of these",
        )
    return Dialect(source, variables)
