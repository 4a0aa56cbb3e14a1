"""The token table: tokenise once, never read a stale or damaged one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dialects import CHATML, byte_level
from metier.core.errors import DataError
from metier.core.types import Conversation, Labelled, Message
from metier.data.encoded import Encoded
from metier.data.template import Encoder
from metier.data.tokens import TokenTable


def encoded(n: int = 5) -> list[Encoded]:
    enc = Encoder(byte_level(), max_length=64, chat_template=CHATML)
    rows = [
        Conversation(messages=(Message("user", "q" * (i + 1)), Message("assistant", "a" * (n - i))), id=f"id{i}")
        for i in range(n)
    ]
    return list(enc.encode(rows))


def equal(one: Encoded, other: Encoded) -> bool:
    return (
        (one.example_id, one.num_prompt, one.cut_tokens, one.target)
        == (other.example_id, other.num_prompt, other.cut_tokens, other.target)
        and one.token_ids.tolist() == other.token_ids.tolist()
        and one.loss_mask.tolist() == other.loss_mask.tolist()
    )


def test_a_table_gives_back_what_went_in(tmp_path: Path) -> None:
    items = encoded()
    table = TokenTable.build(iter(items), tmp_path / "t", "key")
    again = TokenTable.open(tmp_path / "t", "key")
    assert len(table) == len(again) == 5
    assert all(equal(a, b) for a, b in zip(items, again, strict=True))
    assert equal(again[-1], items[-1]) and [e.example_id for e in again[1:3]] == ["id1", "id2"]
    assert again.lengths.tolist() == [len(i.token_ids) for i in items]
    assert again.num_tokens == sum(len(i.token_ids) for i in items)
    assert again.num_supervised == sum(i.num_supervised for i in items)
    with pytest.raises(IndexError):
        again[5]
    assert isinstance(again[0].token_ids, np.memmap)


def test_targets_survive(tmp_path: Path) -> None:
    enc = Encoder(byte_level(), max_length=64)
    targets = ["x", ("a", "b"), 2.5]
    items = [enc.labelled(Labelled(text="t", target=t)) for t in targets]
    assert [e.target for e in TokenTable.build(items, tmp_path / "t", "k")] == targets


def test_another_key_is_another_table(tmp_path: Path) -> None:
    TokenTable.build(encoded(), tmp_path / "t", "old")
    with pytest.raises(DataError, match="E359"):
        TokenTable.open(tmp_path / "t", "new")
    table = TokenTable.cached(tmp_path / "t", "new", encoded(3))
    assert len(table) == 3 and len(TokenTable.open(tmp_path / "t", "new")) == 3


@pytest.mark.parametrize("name", ["ids.bin", "mask.bin", "offsets.bin", "rows.jsonl"])
def test_a_damaged_table_is_not_read(tmp_path: Path, name: str) -> None:
    TokenTable.build(encoded(), tmp_path / "t", "k")
    path = tmp_path / "t" / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match="E359"):
        TokenTable.open(tmp_path / "t", "k")
    path.unlink()
    with pytest.raises(DataError, match="E359"):
        TokenTable.open(tmp_path / "t", "k")
    assert len(TokenTable.cached(tmp_path / "t", "k", encoded())) == 5


def test_a_cached_table_is_not_built_twice(tmp_path: Path) -> None:
    TokenTable.cached(tmp_path / "t", "k", encoded())

    def never() -> Iterator[Encoded]:
        raise AssertionError("the table was there")
        yield

    assert len(TokenTable.cached(tmp_path / "t", "k", never())) == 5


def test_a_failed_build_leaves_nothing_and_keeps_the_old_table(tmp_path: Path) -> None:
    TokenTable.build(encoded(), tmp_path / "t", "k")

    def breaks() -> Iterator[Encoded]:
        yield encoded()[0]
        raise DataError(350, "a bad row")

    with pytest.raises(DataError, match="E350"):
        TokenTable.build(breaks(), tmp_path / "t", "k2")
    assert [p.name for p in tmp_path.iterdir()] == ["t"]
    assert len(TokenTable.open(tmp_path / "t", "k")) == 5


def test_an_empty_table_is_a_table(tmp_path: Path) -> None:
    table = TokenTable.build([], tmp_path / "t", "k")
    assert len(table) == 0 and table.num_tokens == 0 and table.lengths.tolist() == []
