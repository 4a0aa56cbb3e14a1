"""Use a run's model: predict, chat, export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np

from metier.actions.compose import Parts
from metier.actions.evaluate import loaded
from metier.core import audit
from metier.core.errors import ConfigError, DataError, RowError
from metier.core.project import SCHEMA_VERSION, Project, read_json
from metier.core.recipe import Recipe
from metier.core.types import Labelled, Message
from metier.data.prompt import ask
from metier.evaluation import card
from metier.evaluation.predict import predict_head, predict_label_likelihood
from metier.evaluation.result import Report
from metier.governance.permission import gate
from metier.models.export import export as write_export

PROBE_ROWS = 8


def predict(
    project: Project, ref: str, inputs: list[str | dict[str, Any]], max_new_tokens: int = 128
) -> list[dict[str, Any]]:
    """Answer new inputs with a run, in order.

    Args:
        inputs: texts, or objects with the columns of the recipe's rows (or `messages`).

    Returns:
        For a task head, and for a classifier that writes its labels, `output` (the label) with `confidence` and
        `probabilities`; else `output` (the reply) with `finish` (`stop` or `length`) and `num_tokens`.

    Raises:
        DataError: E363, an object without a usable column.
    """
    parts, _ = loaded(project, ref)
    rows = [_fields(value, index) for index, value in enumerate(inputs)]
    generative_labels = parts.recipe.objective.task == "classify" and parts.method.facts.problem_type == "single_label"
    if parts.policy.head is not None or generative_labels:
        return _labels(parts, rows)
    prompts = [parts.encoder.prompt(_messages(parts, row, i)) for i, row in enumerate(rows)]
    completions = parts.policy.generate(prompts, max_new_tokens=max_new_tokens)
    return [
        {"output": parts.encoder.reply_text(c.token_ids), "finish": c.finish, "num_tokens": c.num_tokens}
        for c in completions
    ]


class ChatSession:
    """A conversation with a run and, beside it, with its untouched base; each remembers its own replies."""

    def __init__(self, parts: Parts, max_new_tokens: int = 256) -> None:
        self._parts = parts
        self._limit = max_new_tokens
        system = parts.recipe.data.prompt.system
        start = [Message("system", system)] if system else []
        self._turns: dict[str, list[Message]] = {"run": list(start), "base": list(start)}

    def reply(self, text: str) -> str:
        """Return the run's reply."""
        return self._say("run", text)

    def base_reply(self, text: str) -> str:
        """Return the untouched base's reply."""
        with self._parts.policy.reference():
            return self._say("base", text)

    def _say(self, who: str, text: str) -> str:
        turns = self._turns[who]
        turns.append(Message("user", text))
        prompt = self._parts.encoder.prompt(turns)
        completion = self._parts.policy.generate([prompt], max_new_tokens=self._limit)[0]
        answer = self._parts.encoder.reply_text(completion.token_ids)
        turns.append(Message("assistant", answer))
        return answer


def chat(project: Project, ref: str) -> ChatSession:
    """Open a conversation with a run.

    Raises:
        ConfigError: E263, the run has a task head: it labels, it does not talk.
    """
    parts, run = loaded(project, ref)
    if parts.policy.head is not None:
        raise ConfigError(
            263,
            f"Run {run.number} labels texts; it does not talk",
            fix=f"metier predict {run.number} 'a text'",
        )
    return ChatSession(parts)


def export(project: Project, ref: str, to: Path, form: Literal["hf", "peft"] | str = "hf") -> dict[str, Any]:
    """Write a run's model for other tools with its card and a parity certificate from a fresh process.

    Raises:
        ConfigError, MachineError: as models/export.py.
    """
    parts, run = loaded(project, ref)
    which: Literal["hf", "peft"] = "peft" if form == "peft" else "hf"
    texts = _prompt_file(parts.recipe)
    if (run.dir / "report.json").exists():
        report = Report.model_validate(read_json(run.dir / "report.json"))
        texts["README.md"] = card.render(report, form=which)
    items = parts.validation.items if len(parts.validation) else parts.train.items
    probes = [items[i].token_ids.tolist() for i in range(min(PROBE_ROWS, len(items)))]
    parity = gate("parity", parts.recipe, project.settings) == "required"
    written = write_export(parts.policy, to, form=which, probes=probes, texts=texts, parity=parity)
    audit.append(project, "export", run=run.id, form=which, parity=bool(written.parity))
    return {"form": written.form, "dtype": written.dtype, "parity": written.parity}


# ───────────────────────────────────────────────────────────────────────────── inside


def _prompt_file(recipe: Recipe) -> dict[str, str]:
    """The file that tells another runtime how the rows' columns became messages; none where they were messages."""
    written = recipe.data.prompt.model_dump(exclude_none=True)
    value = {"schema_version": SCHEMA_VERSION, **written}
    return {"prompt.json": json.dumps(value, indent=2, ensure_ascii=False) + "\n"} if written else {}


def _fields(value: str | dict[str, Any], index: int) -> dict[str, Any]:
    if isinstance(value, str):
        return {"text": value}
    if not value:
        raise DataError(363, "An input has no columns", place=f"input {index + 1}")
    return value


def _labels(parts: Parts, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Answer as the report measured it: by the head, or by the label whose text is the likeliest reply."""
    labels, head = parts.method.facts.labels, parts.policy.head
    # The encoder wants a target; nothing looks at it.
    target: Any = labels[0] if labels else 0.0
    examples = []
    for index, row in enumerate(rows):
        if "text" not in row:
            raise DataError(363, "An input has no column `text`", place=f"input {index + 1}", received=", ".join(row))
        examples.append(Labelled(text=str(row["text"]), target=target, id=str(index), meta=row))
    if head is not None:
        found = predict_head(parts.policy, examples, labels=labels, problem_type=head.problem_type)
    else:
        found = predict_label_likelihood(parts.policy, examples, labels=labels)
    answers = []
    for prediction in found:
        answer: dict[str, Any] = {"output": prediction.output, "confidence": prediction.confidence}
        if prediction.label_probs:
            answer["probabilities"] = {k: float(np.round(v, 6)) for k, v in prediction.label_probs.items()}
        answers.append(answer)
    return answers


def _messages(parts: Parts, row: dict[str, Any], index: int) -> tuple[Message, ...]:
    """The messages of an input, written by the same function as in training."""
    place = f"input {index + 1}"
    if "messages" in row:
        return tuple(Message(m["role"], m["content"]) for m in row["messages"])
    if "text" not in row and "prompt" in row:
        row = {**row, "text": row["prompt"]}
    try:
        if "labelled" in parts.dataset.manifest["kinds"]:
            example = Labelled(text=str(row.get("text", "")), target="", id=str(index), place=place, meta=row)
            return parts.encoder.labelled_conversation(example).messages[:-1]
        return ask(parts.recipe.data.prompt, row)
    except RowError as error:
        raise DataError(
            363,
            f"An input lacks the column `{error.field}` that data.prompt names",
            place=place,
            received=", ".join(row),
        ) from None
