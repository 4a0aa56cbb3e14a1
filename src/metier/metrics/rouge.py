"""ROUGE: how much of the reference's wording the answer shares (Lin 2004), F-measure, mean over rows.

Scored by the rouge-score package without stemming, with words found in every script (its own tokeniser drops all but
a-z and 0-9; on English text both give the same). Left out: rougeLsum, several references.
"""

from __future__ import annotations

import math
import re
import unicodedata
from functools import cache
from typing import Any, Literal

from pydantic import Field

from metier.core import catalog
from metier.metrics import Prediction

summary = "Shared wording of answer and reference: longest common subsequence (L), words (1) or word pairs (2)."
label = "ROUGE-{variant}"
higher_is_better = True
range = (0.0, 1.0)
unit = "share"
tasks = ("chat", "summarize", "generate")
answers = ("text",)
primary = ("summarize", "generate")
rank = 10

_NO_SPACES = re.compile(
    "["
    "\u0e00-\u0eff"  # Thai, Lao
    "\u1000-\u109f"  # Burmese
    "\u1780-\u17ff"  # Khmer
    "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"  # Japanese, Chinese
    "]"
)
_JOINERS = str.maketrans("", "", "\u200c\u200d")
"""Written inside a word to say how its letters are drawn."""


class Options(catalog.Options):
    """Which overlap."""

    variant: Literal["1", "2", "L"] = Field(
        "L", description="`1` words, `2` word pairs, `L` longest common subsequence."
    )


class Words:
    """The tokeniser that rouge-score calls."""

    def tokenize(self, text: str) -> list[str]:
        """Return the words in lower case: runs of letters and digits, and single characters of scripts without spaces.

        A mark (vowel sign, accent, point) belongs to the letter before it, written in one code point or in two.
        """
        words: list[str] = []
        inside = False
        for character in unicodedata.normalize("NFC", text.lower().translate(_JOINERS)):
            if character.isalnum():
                if inside and not _NO_SPACES.match(character) and not _NO_SPACES.match(words[-1]):
                    words[-1] += character
                else:
                    words.append(character)
                inside = True
            elif inside and unicodedata.category(character) in ("Mn", "Mc"):
                words[-1] += character
            else:
                inside = False
        return words


@cache
def _scorer(variant: str) -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer([f"rouge{variant}"], tokenizer=Words())


def per_example(prediction: Prediction, options: Options) -> float:
    """Return the row's F-measure, NaN where there is no answer."""
    if not isinstance(prediction.output, str) or not isinstance(prediction.reference, str):
        return math.nan
    scores = _scorer(options.variant).score(prediction.reference, prediction.output)
    return float(scores[f"rouge{options.variant}"].fmeasure)


SAMPLE: dict[str, Any] = {
    "predictions": [
        {"id": "1", "reference": "The patient has a cough.", "output": "the patient has fever"},
        {"id": "2", "reference": "ok", "output": ""},
    ],
    "value": (2 * (3 / 4) * (3 / 5) / (3 / 4 + 3 / 5)) / 2,
}
