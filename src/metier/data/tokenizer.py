"""The tokenizer as the encoder needs it: exact cuts, exact decoding, and no state that another caller can change.

A *cut* is a character where a prompt ends. The tokens before a cut must be those of the text before it, tokenised
alone, since that is what serving sends. Most texts have that property anyway; where the tokenizer would merge across
the cut (`\\n` + `\\n`, a space + a word) or looks ahead, the rest is tokenised as a continuation of its own.
"""

from __future__ import annotations

import functools
import json
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import Encoding

from metier.core.errors import ConfigError
from metier.core.project import digest_bytes, digest_json

CODE = (
    "template.py",
    "tokenizer.py",
    "turns.py",
    "dialect.py",
    "prompt.py",
    "render.py",
    "templates/chatml.jinja",
    "templates/plain.jinja",
)
"""The files that decide the tokens: a change of any of them makes a cache stale."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """Token ids of a text, and the pieces they come from: (first character, first token, encoding)."""

    ids: list[int]
    pieces: tuple[tuple[int, int, Encoding], ...]

    def at(self, char: int) -> int | None:
        """Return the token that holds a character, None where none does."""
        base, first, encoding = next(p for p in reversed(self.pieces) if p[0] <= char)
        found = encoding.char_to_token(char - base)
        return None if found is None else first + int(found)


class FastTokenizer:
    """A private copy of a Hugging Face tokenizer's Rust core.

    Raises:
        ConfigError: E242, the tokenizer has no Rust core.
    """

    def __init__(self, tokenizer: Any) -> None:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if not isinstance(backend, tokenizers.Tokenizer):
            raise ConfigError(
                242,
                "This tokenizer has no fast implementation, and only that says where a token begins in the text",
                received=type(tokenizer).__name__,
                expected="a tokenizer.json beside the model",
                fix="convert it with transformers, or name another model.name_or_path",
            )
        self._json = backend.to_str()
        self._core = tokenizers.Tokenizer.from_str(self._json)
        # Whoever used the tokenizer before may have left truncation or padding switched on.
        self._core.no_truncation()
        self._core.no_padding()
        self._specials: dict[str, str] = {
            name: str(value) for name, value in tokenizer.special_tokens_map.items() if isinstance(value, str)
        }
        self._added = {int(i): t for i, t in tokenizer.added_tokens_decoder.items()}
        self._bos, self._unk = tokenizer.bos_token_id, tokenizer.unk_token_id
        self._before, self._after = self._find_specials()

    # ── text → ids ──

    def cut(self, text: str, cuts: Sequence[int]) -> list[Tokens]:
        """Return the tokens before each cut and, last, of the whole text; each is a prefix of the next."""
        return self.cut_all([(text, cuts)])[0]

    def cut_all(self, items: Sequence[tuple[str, Sequence[int]]]) -> list[list[Tokens]]:
        """Do `cut` for many texts at once, with the tokenizer's threads.

        Each text is tokenised once. Before a cut only the part since the last special token is tokenised again: special
        tokens divide a text before anything else happens to it, so that what stands before them cannot change.
        """
        wholes = self._core.encode_batch([text for text, _ in items], add_special_tokens=False)
        anchors = [
            [(cut, *self._anchor(text, whole, cut)) for cut in cuts if cut < len(text)]
            for (text, cuts), whole in zip(items, wholes, strict=True)
        ]
        windows = [text[start:cut] for (text, _), found in zip(items, anchors, strict=True) for cut, start, _ in found]
        encodings = iter(self._core.encode_batch(windows, add_special_tokens=False))
        results = []
        for (text, _), whole, found in zip(items, wholes, anchors, strict=True):
            ids = list(whole.ids)
            stages: list[Tokens] = []
            for (cut, start, first), window in zip(found, [next(encodings) for _ in found], strict=True):
                alone = Tokens([*ids[:first], *window.ids], ((0, 0, whole), (start, first, window)))
                self._extend(stages, alone, text[found[len(stages) - 1][0] if stages else 0 : cut], cut)
            self._extend(stages, Tokens(ids, ((0, 0, whole),)), text[found[-1][0] if found else 0 :], len(text))
            results.append(stages)
        return results

    def with_specials(self, text: str) -> tuple[list[int], list[int], list[int]]:
        """Return the special tokens before a text, its tokens, and the special tokens after it."""
        return self._before, list(self._core.encode(text, add_special_tokens=False).ids), self._after

    def _extend(self, stages: list[Tokens], alone: Tokens, rest: str, end: int) -> None:
        """Add a stage: the text tokenised alone where that begins with the stage before, else a continuation of it."""
        last = stages[-1] if stages else None
        if last is not None and alone.ids[: len(last.ids)] != last.ids:
            encoding = self._continuation.encode(rest, add_special_tokens=False)
            piece = (end - len(rest), len(last.ids), encoding)
            alone = Tokens([*last.ids, *encoding.ids], (*last.pieces, piece))
        stages.append(alone)

    def _anchor(self, text: str, whole: Encoding, cut: int) -> tuple[int, int]:
        """Return character and number of the last special token before a cut; the beginning where there is none."""
        last = next((t for c in range(cut - 1, -1, -1) if (t := whole.char_to_token(c)) is not None), -1)
        ids = whole.ids
        for token in range(last, -1, -1):
            added = self._added.get(ids[token])
            if added is None or not added.special or added.normalized:
                continue
            start, end = whole.token_to_chars(token) or (0, 0)
            if added.content in text[start:end]:  # else it stands for something else, as an unknown token does
                return start, token
        return 0, 0

    @functools.cached_property
    def _continuation(self) -> tokenizers.Tokenizer:
        """The same tokenizer without the space that some put in front of a text."""
        value = json.loads(self._json)
        value["truncation"] = value["padding"] = None
        value["normalizer"] = _without_prefix(value["normalizer"])
        value["pre_tokenizer"] = _without_prefix(value["pre_tokenizer"])
        return tokenizers.Tokenizer.from_str(json.dumps(value))

    # ── ids → text ──

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of tokens, special ones included, with nothing tidied."""
        return str(self._core.decode(list(ids), skip_special_tokens=False))

    def decode_span(self, ids: Sequence[int], start: int, end: int) -> str:
        """Return the text of tokens start…end as it stands after the token before them."""
        if start == 0:
            return self.decode(ids[:end])
        # Some decoders strip the first space of whatever they get: the token before takes that blow.
        before, both = self.decode(ids[start - 1 : start]), self.decode(ids[start - 1 : end])
        return both[len(before) :] if both.startswith(before) else self.decode(ids[start:end])

    def same(self, text: str, decoded: str, notes: Counter[str]) -> bool:
        """Return whether decoded tokens say what the text says; what the tokenizer cannot write is counted in notes."""
        if text == decoded:
            return True
        if _canonical(text) == _canonical(decoded):
            notes["reply normalised by the tokenizer (white space, letter forms)"] += 1
            return True
        unknown = None if self._unk is None else self.text_of(self._unk)
        if (
            unknown
            and unknown in decoded
            and _with_gaps(_canonical(text), _canonical(decoded).split(_canonical(unknown)))
        ):
            notes["reply with characters that the tokenizer does not know"] += 1
            return True
        return False

    # ── what it has ──

    def text_of(self, token_id: int) -> str:
        """Return how a token is written."""
        added = self._added.get(token_id)
        return str(added.content) if added is not None else str(self._core.id_to_token(token_id) or "")

    def is_added(self, text: str) -> bool:
        """Return whether this text is one token of its own, wherever it stands."""
        return any(token.content == text for token in self._added.values())

    def first_special(self, text: str) -> int | None:
        """Return the first special token that is written in a text; the stand-in for unknown characters is none."""
        ids = self._core.encode(text, add_special_tokens=False).ids
        return next((i for i in ids if i in self._added and self._added[i].special and i != self._unk), None)

    def is_special(self, token_id: int) -> bool:
        """Return whether a token is one of the tokenizer's special or added tokens."""
        return token_id in self._added

    def special_texts(self) -> dict[str, str]:
        """Return the special tokens by name, as chat templates expect them (`bos_token` …)."""
        return dict(self._specials)

    def adds_bos(self) -> bool:
        """Return whether the tokenizer itself begins a text with BOS."""
        return self._bos is not None and self._before[:1] == [self._bos]

    def fingerprint(self, options: Mapping[str, Any]) -> str:
        """Return a digest of tokenizer, options, library version and the code that decides the tokens."""
        folder = Path(__file__).parent
        return digest_json(
            {
                "tokenizer": digest_bytes(self._json.encode()),
                "specials": self._specials,
                "library": tokenizers.__version__,
                "code": {name: digest_bytes((folder / name).read_bytes()) for name in CODE},
                "options": dict(options),
            }
        )

    def _find_specials(self) -> tuple[list[int], list[int]]:
        bare = self._core.encode("a", add_special_tokens=False).ids
        full = self._core.encode("a", add_special_tokens=True).ids
        for start in range(len(full) - len(bare) + 1):
            if full[start : start + len(bare)] == bare:
                return list(full[:start]), list(full[start + len(bare) :])
        return [], []


def _without_prefix(part: Any) -> Any:
    """Return a normaliser or pre-tokenizer (as JSON) that adds nothing in front of a text."""
    if part is None or part["type"] == "Prepend":
        return None
    if part["type"] == "Sequence":
        name = "normalizers" if "normalizers" in part else "pretokenizers"
        return {**part, name: [p for p in map(_without_prefix, part[name]) if p is not None]}
    if part["type"] == "Metaspace":
        return {**part, "prepend_scheme": "never"}
    if part["type"] == "ByteLevel":
        return {**part, "add_prefix_space": False}
    return part


def _canonical(text: str) -> str:
    return "".join(unicodedata.normalize("NFKC", text).casefold().replace("▁", " ").split())


def _with_gaps(text: str, chunks: Sequence[str]) -> bool:
    """Return whether a text is the chunks in order with something unknown between them."""
    if not text.startswith(chunks[0]) or not text.endswith(chunks[-1]):
        return False
    at = 0
    for chunk in chunks:
        found = text.find(chunk, at)
        if found < 0:
            return False
        at = found + len(chunk)
    return True
