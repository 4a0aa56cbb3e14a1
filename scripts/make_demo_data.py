"""Write the demo data: messages to the front desk of an invented small-town clinic, with what the desk has to do.

    python scripts/make_demo_data.py            # writes src/metier/actions/assets/demo/messages.csv
    python scripts/make_demo_data.py --measure  # also how hard it is, and how varied

Every message asks for exactly one of twelve things. Most of them mention a second one as well, in a way that asks for
nothing: it was done already, somebody else wants it, it is denied. So the words alone do not say the label; what is
said about them does. The phrases are hand-written (demo_phrases.yaml), the script chooses, joins and roughens them.
The same seed gives the same bytes.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import json
import random
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from demo_frames import (
    ASKED,
    BRIDGES,
    CLOSERS,
    JOINED,
    NEIGHBOURS,
    NOT_ASKED,
    OPENERS,
    PHONE_ASKED,
    PHONE_NOT_ASKED,
    SECOND_LANGUAGE,
    SHORT,
    SLOTS,
    THIRD_PERSON,
)

HERE = Path(__file__).parent
ASSETS = HERE.parent / "src" / "metier" / "actions" / "assets" / "demo"
MESSAGES_PER_LABEL = 76
ROUND = {"patterns": 16, "verb_phrases": 2, "requests": 2}
SHARE_WITH_SECOND_TOPIC = 0.36
SHARE_MENTION = 0.65
SHARE_PATTERNS_AS_SECOND = 0.8
SHARE_REQUEST_LAST = 0.8
SHARE_NEIGHBOUR = 0.7
COLUMNS = ("text", "label", "channel", "english", "phrasing")


@dataclass(frozen=True)
class Piece:
    """A sentence before its slots are filled, with the label that it asks for or mentions."""

    text: str
    label: str
    phrasing: str
    is_verb_phrase: bool


@dataclass(frozen=True)
class Message:
    """One finished row and how it came about; `second` is the label that is only mentioned."""

    text: str
    label: str
    channel: str
    english: str
    phrasing: str
    second: str


class Writer:
    """Builds messages from the phrases; every choice comes from one seeded generator."""

    def __init__(self, phrases: dict[str, Any], seed: int) -> None:
        self.phrases = phrases
        self.random = random.Random(seed)
        self.frames: dict[tuple[str, ...], list[str]] = {}

    def messages(self, per_label: int) -> list[Message]:
        """Return that many messages of each label in a shuffled order, no text twice."""
        found: dict[str, Message] = {}
        for label in self.phrases:
            pieces = self._requests(label)
            made = 0
            while made < per_label:
                message = self._message(next(pieces))
                if message.text.casefold() not in found:
                    found[message.text.casefold()] = message
                    made += 1
        messages = list(found.values())
        self.random.shuffle(messages)
        return messages

    def _requests(self, label: str) -> Iterator[Piece]:
        """Yield the label's phrases for ever, in rounds in which each kind has its share."""
        stacks: dict[str, list[tuple[int, str]]] = {kind: [] for kind in ROUND}
        while True:
            kinds = [kind for kind, times in ROUND.items() for _ in range(times)]
            self.random.shuffle(kinds)
            for kind in kinds:
                if not stacks[kind]:
                    stacks[kind] = list(enumerate(self.phrases[label][kind], 1))
                    self.random.shuffle(stacks[kind])
                number, text = stacks[kind].pop()
                chosen = self._choose(text)
                phrasing = f"{label.replace('_', '-')}-{kind[0]}{number:02d}"
                if chosen != text:
                    phrasing += hashlib.blake2b(chosen.encode(), digest_size=2).hexdigest()
                yield Piece(chosen, label, phrasing, kind != "requests")

    def _choose(self, text: str) -> str:
        """Return the pattern with one of each `[a|b]` taken."""
        return re.sub(r"\[([^]]*)\]", lambda m: self.random.choice(m[1].split("|")), text)

    def _verb_phrase(self, label: str) -> str:
        """Return something that could be asked for under this label, to be mentioned instead."""
        kind = "patterns" if self.random.random() < SHARE_PATTERNS_AS_SECOND else "verb_phrases"
        return self._fill(self._choose(self.random.choice(self.phrases[label][kind])))

    def _second(self, label: str) -> str:
        near = self.random.random() < SHARE_NEIGHBOUR
        return self.random.choice(NEIGHBOURS[label] if near else [x for x in self.phrases if x != label])

    def _frame(self, frames: tuple[str, ...]) -> str:
        """Return the next frame of a shuffled round, so that none is used more than its share."""
        if not self.frames.get(frames):
            self.frames[frames] = self.random.sample(frames, len(frames))
        return self.frames[frames].pop()

    def _fill(self, text: str) -> str:
        """Return the text with its slots filled."""
        values = {name: self.random.choice(options) for name, options in SLOTS.items()}
        for name in ("day", "med"):
            values[f"{name}2"] = self.random.choice([v for v in SLOTS[name] if v != values[name]])
        return re.sub(r"\ba X-ray", "an X-ray", text.format("{}", yes="{yes}", no="{no}", **values))

    def _message(self, piece: Piece) -> Message:
        second = self._second(piece.label) if self.random.random() < SHARE_WITH_SECOND_TOPIC else ""
        channel = self.random.choices(("app", "sms", "phone"), (48, 27, 25 if piece.is_verb_phrase else 0))[0]
        english = "first"
        if channel == "phone":
            text = self._phone_note(piece, second)
        else:
            text = self._written(piece, second)
            if self.random.random() < 0.27:
                english, text = "second", _second_language(text, self.random)
        if channel == "sms":
            text = _roughen(text, self.random)
        elif channel == "app" and self.random.random() < 0.45:
            opener, closer = self.random.choice(OPENERS), self.random.choice(CLOSERS)
            text = self.random.choice((opener + text, text + closer, opener + text + closer))
        return Message(text, piece.label, channel, english, piece.phrasing, second)

    def _written(self, piece: Piece, second: str) -> str:
        other_phrase = self._verb_phrase(second) if second else ""
        if piece.is_verb_phrase and second and self.random.random() < 0.3:
            frame = self._fill(self._frame(JOINED))
            return frame.format(yes=self._fill(piece.text), no=other_phrase)
        asked = self._fill(piece.text)
        if piece.is_verb_phrase:
            asked = self._fill(self._frame(ASKED)).format(asked)
        if not second:
            return asked
        if self.random.random() < SHARE_MENTION:
            other = self._fill(self.random.choice(self.phrases[second]["mentions"]))
        else:
            other = self._fill(self._frame(NOT_ASKED)).format(other_phrase)
        if self.random.random() < SHARE_REQUEST_LAST:
            return f"{other} {self.random.choice(BRIDGES)}{asked}"
        return f"{asked} {other}"

    def _phone_note(self, piece: Piece, second: str) -> str:
        asked = self._fill(self._frame(PHONE_ASKED)).format(_substitute(self._fill(piece.text), THIRD_PERSON))
        if not second:
            return asked
        phrase = _substitute(self._verb_phrase(second), THIRD_PERSON)
        other = self._fill(self._frame(PHONE_NOT_ASKED)).format(phrase)
        return f"{other} {asked}" if self.random.random() < SHARE_REQUEST_LAST else f"{asked} {other}"


def _substitute(text: str, rules: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in rules:
        text = re.sub(pattern, replacement, text)
    return text


def _second_language(text: str, rng: random.Random) -> str:
    """Return the text with the slips of someone who learnt English late: dropped articles, no contractions."""
    for pattern, replacement in SECOND_LANGUAGE:
        text = re.sub(pattern, lambda m, r=replacement: r if rng.random() < 0.75 else m[0], text)  # type: ignore[misc]
    return text


def _roughen(text: str, rng: random.Random) -> str:
    """Return the text as thumbed into a telephone: small letters, short forms, slips."""
    if rng.random() < 0.7:
        text = text.lower()
    for long, short in SHORT.items():
        if rng.random() < 0.6:
            text = re.sub(rf"\b{long}\b", short, text)
    if rng.random() < 0.5:
        text = text.replace("'", "")
    slip: Callable[[str], str] = lambda word: _slip(word, rng) if len(word) > 4 and rng.random() < 0.04 else word  # noqa: E731
    return re.sub(r" +", " ", " ".join(slip(word) for word in text.split(" "))).rstrip(
        "." if rng.random() < 0.5 else " "
    )


def _slip(word: str, rng: random.Random) -> str:
    at = rng.randrange(1, len(word) - 2)
    kinds = (
        word[:at] + word[at + 1] + word[at] + word[at + 2 :],  # two letters change places
        word[:at] + word[at + 1 :],  # one is lost
        word[:at] + word[at] + word[at:],  # one is doubled
    )
    return rng.choice(kinds)


def to_csv(messages: list[Message], seed: int) -> str:
    """Return the file: the messages, with the few bad rows that real files have."""
    rng = random.Random(seed + 1)
    rows = [[getattr(m, name) for name in COLUMNS] for m in messages]
    for source in rng.sample(rows, 3):  # sent twice
        rows.insert(rng.randrange(len(rows)), list(source))
    for text in ("Please ring me back.", "hello?? is anybody there"):  # nobody has labelled these
        rows.insert(rng.randrange(len(rows)), [text, "", "app", "first", ""])
    rows.insert(rng.randrange(len(rows)), ["", "billing", "sms", "first", ""])  # an empty message
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(rows)
    return out.getvalue()


def main() -> None:
    """Write the messages and, when asked, measure them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", type=Path, default=ASSETS)
    parser.add_argument("--measure", action="store_true", help="print difficulty and variety (needs scikit-learn)")
    arguments = parser.parse_args()
    phrases: dict[str, Any] = yaml.safe_load((HERE / "demo_phrases.yaml").read_text(encoding="utf-8"))
    messages = Writer(phrases, arguments.seed).messages(MESSAGES_PER_LABEL)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "messages.csv").write_text(to_csv(messages, arguments.seed), encoding="utf-8")
    sys.stdout.write(f"{len(messages)} messages with {len(phrases)} labels in {arguments.out}\n")
    if arguments.measure:
        sys.stdout.write(json.dumps(measure(messages), indent=2) + "\n")


def measure(messages: list[Message]) -> dict[str, Any]:
    """Return how far word statistics get (phrasings kept on one side of each fold) and how varied the text is."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.model_selection import GroupKFold, KFold, cross_val_score
    from sklearn.pipeline import make_pipeline, make_union
    from sklearn.svm import LinearSVC

    texts = [m.text for m in messages]
    labels = [m.label for m in messages]
    groups = [m.phrasing for m in messages]
    model = make_pipeline(
        make_union(
            TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
            TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True),
        ),
        LinearSVC(C=1.0),
    )
    held_out = cross_val_score(model, texts, labels, groups=groups, cv=GroupKFold(5, shuffle=True, random_state=0))
    leaking = cross_val_score(model, texts, labels, cv=KFold(5, shuffle=True, random_state=0))
    words = [re.findall(r"[\w'£.]+", t.casefold()) for t in texts]
    variety = {}
    for n in (1, 2, 3):
        grams = [tuple(w[i : i + n]) for w in words for i in range(len(w) - n + 1)]
        variety[f"distinct_{n}"] = round(len(set(grams)) / len(grams), 3)
    return {
        "tfidf_svm_accuracy_phrasings_held_out": [round(float(held_out.mean()), 3), round(float(held_out.std()), 3)],
        "tfidf_svm_accuracy_rows_at_random": [round(float(leaking.mean()), 3), round(float(leaking.std()), 3)],
        "words_per_message": round(sum(map(len, words)) / len(words), 1),
        "phrasings": len(set(groups)),
        "rows_of_the_commonest_phrasing": Counter(groups).most_common(1)[0][1],
        "with_second_topic": round(sum(bool(m.second) for m in messages) / len(messages), 3),
        "channel": dict(Counter(m.channel for m in messages)),
        "english": dict(Counter(m.english for m in messages)),
        **variety,
    }


if __name__ == "__main__":
    main()
