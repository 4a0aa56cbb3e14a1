"""The coloured token view shows exactly what is trained, and shows text as text."""

from __future__ import annotations

from dialects import CHATML, byte_level
from metier.core.types import Conversation, Message
from metier.data.inspect import pieces, terminal, visible
from metier.data.template import Encoder


def shown(question: str, answer: str):
    enc = Encoder(byte_level(), max_length=512, chat_template=CHATML)
    [item] = enc.conversation(Conversation(messages=(Message("user", question), Message("assistant", answer))))
    return pieces(item, enc)


def test_the_pieces_are_the_text_and_the_supervised_ones_the_reply() -> None:
    found = shown("Is 日本 it? 🦊", "Yes 😀, ☃.")
    assert "".join(p.text for p in found) == (
        "<|im_start|>user\nIs 日本 it? 🦊<|im_end|>\n<|im_start|>assistant\nYes 😀, ☃.<|im_end|>"
    )
    assert "".join(p.text for p in found if p.supervised) == "Yes 😀, ☃.<|im_end|>"
    assert [p.text for p in found if p.special] == ["<|im_start|>", "<|im_end|>", "<|im_start|>", "<|im_end|>"]
    assert not any("\ufffd" in p.text for p in found)


def test_the_terminal_view_without_color_brackets_the_supervised_span() -> None:
    text = terminal(shown("a", "b c"), color=False)
    assert text.endswith("assistant⏎\n⟦b c<|im_end|>⟧")
    assert text.count("⟦") == text.count("⟧") == 1
    colored = terminal(shown("a", "b"), color=True)
    assert "\x1b[32m" in colored and colored.endswith("\x1b[0m")


def test_a_row_cannot_drive_the_terminal() -> None:
    evil = "\x1b[2J\u202e<script>alert(1)</script>\r"
    assert "\x1b[2J" not in terminal(shown(evil, evil), color=False)
    assert "\u202e" not in terminal(shown(evil, evil), color=True)
    assert visible("a\x07b\u200bc\n") == "a\\x07b\\x200bc⏎\n"
