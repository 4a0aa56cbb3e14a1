"""Use a run's model: predict, chat, export."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from metier.actions.compose import Parts, Progress
from metier.actions.evaluate import loaded, reported
from metier.actions.question import Question
from metier.core import audit, erase_runs, refs
from metier.core.errors import ConfigError, DataError, PermissionDenied
from metier.core.locks import together
from metier.core.project import SCHEMA_VERSION, Project, now
from metier.core.run import Run
from metier.core.types import Labelled, Message
from metier.evaluation import card
from metier.evaluation.predict import fit, predict_head, predict_label_likelihood
from metier.evaluation.protocols import silent
from metier.governance.permission import gate
from metier.models.export import export as write_export
from metier.models.export import form_of
from metier.models.parity import Form

PROBE_ROWS = 8


def predict(
    project: Project,
    ref: str,
    inputs: list[str | dict[str, Any]],
    max_new_tokens: int = 128,
    *,
    temperature: float | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    places: Sequence[str] = (),
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Answer new inputs with a run, in order.

    Args:
        inputs: texts, which fill the one column that the run's prompt asks for, or objects with the columns of the
            recipe's rows (or `messages`, where no prompt of the recipe writes them).
        temperature: None or 0 is greedy; above, tokens are drawn, the same for the same seed.
        top_p: draw among the likeliest tokens that together hold this probability; default 1, all.
        seed: of the draws; default 0.
        places: where each input stands, such as `rows.jsonl:3`, for errors; default `input 1`, and so on.

    Returns:
        For a task head, and for a classifier that writes its labels, `output` (the label) with `confidence` and
        `probabilities`; else `output` (the reply, or how a text goes on) with `finish` (`stop` or `length`) and
        `num_tokens`. With either `cut_tokens`: how many tokens of the input the model could not read.

    Raises:
        ConfigError: E291, a sampling option that would change nothing.
        DataError: E363, a column is missing; E372, an input without a single token for a task head.
    """
    sampling = _sampling(temperature, top_p, seed)
    say = progress or silent
    places = places or [f"input {number}" for number in range(1, len(inputs) + 1)]
    parts, run = loaded(project, ref, progress)
    question = Question.of(parts)
    generative_labels = parts.recipe.objective.task == "classify" and parts.method.facts.problem_type == "single_label"
    if parts.policy.head is not None or generative_labels:
        if sampling:
            raise _without_use(sampling, f"Run {run.number} chooses among labels; it draws no tokens")
        rows = [question.fields(given, place=place) for given, place in zip(inputs, places, strict=True)]
        return _labels(parts, rows, places, say)
    asked = [question.ids(given, parts.encoder, place=place) for given, place in zip(inputs, places, strict=True)]
    prompts = [prompt for prompt, _ in asked]
    completions = parts.policy.generate(
        prompts, max_new_tokens=max_new_tokens, progress=lambda done, total: say("answers", done, total), **sampling
    )
    return [
        {
            "output": parts.encoder.reply_text(c.token_ids),
            "finish": c.finish,
            "num_tokens": c.num_tokens,
            "cut_tokens": cut,
        }
        for c, (_, cut) in zip(completions, asked, strict=True)
    ]


class ChatSession:
    """A conversation with a run and, beside it, with its untouched base; each remembers its own replies.

    A run whose rows were asked by a prompt has learnt to answer that one question: each message is then a conversation
    of its own, and the base gets the same prompt.

    Args:
        temperature, top_p, seed: as in `predict`; the second reply draws by the next seed, and so on, so that the same
            question asked again is drawn anew.

    Raises:
        ConfigError: E291, a sampling option that would change nothing.
    """

    def __init__(
        self,
        parts: Parts,
        max_new_tokens: int = 256,
        *,
        temperature: float | None = None,
        top_p: float | None = None,
        seed: int | None = None,
    ) -> None:
        self.question = Question.of(parts)
        self._parts = parts
        self._limit = max_new_tokens
        self._sampling = _sampling(temperature, top_p, seed)
        self._replies = {"run": 0, "base": 0}
        self.cut_tokens = 0
        """Tokens of the conversation's start that the last reply was made without, since they do not fit any more."""
        system = self.question.prompt.system
        start = [Message("system", system)] if system else []
        self._turns: dict[str, list[Message]] = {"run": list(start), "base": list(start)}

    def reply(self, asked: str | Mapping[str, Any]) -> str:
        """Return the run's reply to a message, or to the columns that its prompt asks for.

        Raises:
            DataError: E363, a column is missing.
        """
        return self._say("run", asked)

    def base_reply(self, asked: str | Mapping[str, Any]) -> str:
        """Return the untouched base's reply; raises as `reply`."""
        with self._parts.policy.reference():
            return self._say("base", asked)

    def _say(self, who: str, asked: str | Mapping[str, Any]) -> str:
        messages = self.question.messages(asked)
        if not self.question.once:
            self._turns[who].append(messages[-1])
            messages = tuple(self._turns[who])
        encoder = self._parts.encoder
        prompt, self.cut_tokens = fit(encoder.prompt(messages), encoder.max_length - 1)
        sampling = dict(self._sampling)
        if sampling.get("temperature"):
            sampling["seed"] = sampling.get("seed", 0) + self._replies[who]
        self._replies[who] += 1
        completion = self._parts.policy.generate([prompt], max_new_tokens=self._limit, **sampling)[0]
        answer = encoder.reply_text(completion.token_ids)
        self._turns[who].append(Message("assistant", answer))
        return answer


def chat(
    project: Project,
    ref: str,
    *,
    temperature: float | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    progress: Progress | None = None,
) -> ChatSession:
    """Open a conversation with a run; the sampling options are those of `predict`.

    Raises:
        ConfigError: E263, the run has a task head: it labels, it does not talk; or it goes on with texts, and its base
            has no chat template; E291, as `predict`.
    """
    _sampling(temperature, top_p, seed)  # before the base is loaded
    parts, run = loaded(project, ref, progress)
    if parts.policy.head is not None:
        raise ConfigError(
            263,
            f"Run {run.number} labels texts; it does not talk",
            fix=f"metier predict {run.number} 'a text'",
        )
    if Question.of(parts).continues and not parts.encoder.dialect:
        raise ConfigError(
            263,
            f"Run {run.number} goes on with texts; its base has no chat template to talk by",
            fix=f"metier predict {run.number} 'the beginning of a text'",
        )
    return ChatSession(parts, temperature=temperature, top_p=top_p, seed=seed)


def export(
    project: Project,
    ref: str,
    to: Path,
    form: str = "hf",
    *,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write a run's model for other tools with its card and a parity certificate from a fresh process.

    A checkpoint that was never evaluated has no card: the run's is that of the chosen one. What its sources may be used
    for is not asked again: a finished model is not its rows, and an erasure lists it.

    Raises:
        PermissionDenied: E608, rows that the run was trained on were erased since.
        ConfigError, MachineError: as models/export.py; E271, no such form, before anything is loaded.
    """
    which = form_of(form)
    run = Run(project.run_dir(refs.run_and_checkpoint(ref)[0]))
    with together(project, f"metier models export {run.number}"):  # the card quotes rows
        _not_erased(run)
        return _exported(project, ref, to, which, progress)


def _exported(project: Project, ref: str, to: Path, form: Form, progress: Progress | None) -> dict[str, Any]:
    parts, run = loaded(project, ref, progress)
    texts = _prompt_file(Question.of(parts))
    report, _, _ = reported(run, ref)  # the card is that of these weights, or there is none
    if report is not None:
        texts["README.md"] = card.render(report, form=form)
    items = parts.validation.items if len(parts.validation) else parts.train.items
    probes = [items[i].token_ids.tolist() for i in range(min(PROBE_ROWS, len(items)))]
    parity = gate("parity", parts.recipe, project.settings) == "required"
    if progress:
        progress("writing the model, then loading it in a fresh process" if parity else "writing the model", 0, None)
    written = write_export(parts.policy, to, form=form, probes=probes, texts=texts, parity=parity)
    audit.append(project, "export", run=run.id, form=form, parity=bool(written.parity))
    place = to.resolve()
    root = project.root.resolve()
    named = place.relative_to(root).as_posix() if place.is_relative_to(root) else str(place)
    known = [e for e in run.status().get("exports", []) if e["to"] != named]
    run.update(exports=[*known, {"to": named, "form": form, "time": now()}])  # an erasure lists them
    return {"form": written.form, "dtype": written.dtype, "parity": written.parity}


# ───────────────────────────────────────────────────────────────────────────── inside


def _not_erased(run: Run) -> None:
    marks = run.status().get(erase_runs.MARK, [])
    if erase_runs.learnt(marks):
        raise PermissionDenied(
            608,
            f"Run {run.number} was trained on rows that were erased since",
            place=run.dir.name,
            received=", ".join(f"certificate {m['certificate']}" for m in marks),
            expected="a model of rows that may be used",
            fix=f"metier runs resume {run.number} --fork trains anew on the rows that stay",
        )


def _prompt_file(question: Question) -> dict[str, str]:
    """The file that tells another runtime how the rows' columns became messages; none where they were messages."""
    written = question.written()
    value = {"schema_version": SCHEMA_VERSION, **written}
    return {"prompt.json": json.dumps(value, indent=2, ensure_ascii=False) + "\n"} if written else {}


def _sampling(temperature: float | None, top_p: float | None, seed: int | None) -> dict[str, Any]:
    """The sampling options that were given, as models/generate.py calls them.

    Raises:
        ConfigError: E291, one that would change nothing, since without a temperature the likeliest token is taken.
    """
    found = {"temperature": temperature, "top_p": top_p, "seed": seed}
    given = {name: value for name, value in found.items() if value is not None}
    if set(given) - {"temperature"} and not temperature:
        raise _without_use(given, "Nothing is drawn without a temperature above 0")
    if seed is not None and seed < 0:
        raise _without_use({"seed": seed}, "A seed is a whole number from 0")
    return given


def _without_use(given: Mapping[str, Any], what: str) -> ConfigError:
    return ConfigError(
        291,
        what,
        received=", ".join(f"{name} {value}" for name, value in given.items()),
        expected="temperature above 0 (such as 0.7), with it top_p and a seed from 0, for a run that writes text",
        fix=f"leave out {' and '.join(given)}, or give what is expected",
    )


def _labels(
    parts: Parts, rows: list[dict[str, Any]], places: Sequence[str], progress: Progress = silent
) -> list[dict[str, Any]]:
    """Answer as the report measured it: by the head, or by the label whose text is the likeliest reply."""
    labels, head = parts.method.facts.labels, parts.policy.head
    # The encoder wants a target; nothing looks at it.
    target: Any = labels[0] if labels else 0.0
    examples = []
    for index, (row, place) in enumerate(zip(rows, places, strict=True)):
        if "text" not in row:
            raise DataError(
                363,
                "An input has no column `text`",
                place=place,
                received=", ".join(row),
                fix='call the column with the text `text`, as in {"text": "…"}, whatever the training rows called it',
            )
        text = str(row["text"])
        examples.append(Labelled(text=text, target=target, id=str(index), place=place, meta=row))
    if head is not None:
        found = predict_head(parts.policy, examples, labels=labels, problem_type=head.problem_type, progress=progress)
    else:
        found = predict_label_likelihood(parts.policy, examples, labels=labels, progress=progress)
    answers = []
    for prediction in found:
        answer: dict[str, Any] = {"output": prediction.output, "confidence": prediction.confidence}
        if prediction.label_probs:
            answer["probabilities"] = {k: float(np.round(v, 6)) for k, v in prediction.label_probs.items()}
        answer["cut_tokens"] = prediction.cut_tokens
        answers.append(answer)
    return answers
