"""Why an example is not encoded: the errors of the encoder, each with the row's place and never with its content."""

from __future__ import annotations

from collections.abc import Sequence

from metier.core.errors import ConfigError, DataError


def no_template(place: str) -> ConfigError:
    """Return E240."""
    return ConfigError(
        240,
        "The base model has no chat template, and conversations need one",
        place=place,
        fix="model.chat_template=plain  (or `chatml`, or a Jinja file)",
    )


def double_bos(ids: Sequence[int], bos: int | None, place: str) -> None:
    """Refuse ids that begin with BOS twice.

    Raises:
        DataError: E352.
    """
    if bos is not None and len(ids) > 1 and ids[0] == ids[1] == bos:
        raise DataError(
            352,
            "The text begins with the beginning-of-sequence token twice",
            place=place,
            fix="remove it from the row, or from the chat template",
        )


def half_characters(text: str, place: str) -> None:
    """Refuse half of a surrogate pair: JSON can hold one, UTF-8 and therefore a tokenizer cannot.

    Raises:
        DataError: E358.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise DataError(
            358,
            "The text holds half of a character (a lone surrogate)",
            place=place,
            fix="write the row's \\ud… escapes in pairs, or remove them",
        ) from None


def no_token(place: str) -> DataError:
    """Return E372."""
    return DataError(
        372,
        "There is nothing to read: the text gives not one token",
        place=place,
        received="an empty text, or one that the tokenizer leaves out",
        expected="some text in the columns that data.prompt names, or in `text`",
        fix="leave the row out, or fill its columns",
    )


def too_long(length: int, max_length: int, place: str) -> DataError:
    """Return E357."""
    return DataError(
        357,
        "The example is longer than max_length",
        place=place,
        received=f"{length} tokens",
        expected=f"at most {max_length}, since training.truncation is `error`",
        fix="raise training.max_length, or set training.truncation to left, right or drop",
    )


def nothing_supervised(seen: int, longest: int, max_length: int, place: str) -> DataError:
    """Return E354."""
    return DataError(
        354,
        f"Not one supervised token is left in {seen} examples: max_length is shorter than every answer's beginning",
        place=place,
        received=f"max_length={max_length}, longest example {longest} tokens",
        fix=f"training.max_length={max(longest, max_length + 1)}, or training.truncation=left",
    )


def no_stop_token(place: str, index: int) -> DataError:
    """Return E351 for a marker that is written but is not a token."""
    return DataError(
        351,
        "The end-of-turn marker is not a token of its own here: the model would never learn to stop",
        place=f"{place} messages.{index}",
        fix="set model.chat_template to `plain`, or add the marker to the tokenizer as a special token",
    )


def not_the_reply(place: str, index: int) -> DataError:
    """Return E350 for supervised tokens that say something else than the reply."""
    return DataError(
        350,
        "The supervised tokens do not decode to the assistant's text",
        place=f"{place} messages.{index}",
        received="a tokenizer that changes this text",
        fix="clean the row, or choose another base model",
    )


def no_reply(kind: str, place: str) -> DataError:
    """Return E356."""
    return DataError(
        356,
        f"A row of this kind has no single reply to train on: {kind}",
        place=place,
        expected="conversation, text or labelled rows",
        fix="a source of such rows; metier data preview shows what they are read as",
    )
