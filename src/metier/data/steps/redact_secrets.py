"""Replace credentials: keys and tokens by their formats, passwords in addresses, and random strings behind a cue.

Formats as their issuers document them. A string without a known format counts when a word such as `api_key` or
`password` stands before it and its characters are as mixed as chance (Shannon entropy per character). Arguments of tool
calls and the `item` of a problem are read, too, each text behind its key. Left out: random strings without a cue, which
are as often a digest or a base64 picture; columns beside the text.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import replace
from typing import Any

from pydantic import Field

from metier.core.catalog import Options as BaseOptions
from metier.core.types import Problem, Text, content_of, identify
from metier.data.spool import Examples, Rewritten
from metier.data.steps import ALONE, Around, StepResult, map_leaves, map_text

summary = "Replace API keys, tokens, private keys and passwords"
FILTERS = False
TAG = "[SECRET]"

_KNOWN = re.compile(
    r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----[\s\S]{0,20000}?(?:-----END [A-Z ]{0,30}PRIVATE KEY-----|\Z)"
    r"|\b(?:AKIA|ASIA|AGPA|AIDA|AROA)[A-Z0-9]{16}\b"  # Amazon Web Services
    r"|\bgh[pousr]_[A-Za-z0-9]{36,255}\b|\bgithub_pat_\w{22,255}\b"  # GitHub
    r"|\bglpat-[\w-]{20,64}\b"  # GitLab
    r"|\bxox[abeprs]-[A-Za-z0-9-]{10,250}\b|\bhooks\.slack\.com/services/[A-Za-z0-9/]{20,80}"  # Slack
    r"|\bsk-(?:proj-|ant-|live-|or-)?[\w-]{20,200}\b|\b[rsp]k_(?:live|test)_[A-Za-z0-9]{16,120}\b"  # OpenAI, Stripe
    r"|\bAIza[\w-]{35}\b|\bya29\.[\w-]{20,250}"  # Google
    r"|\bhf_[A-Za-z0-9]{30,60}\b|\bnpm_[A-Za-z0-9]{36}\b|\bpypi-[\w-]{50,250}"  # Hugging Face, npm, PyPI
    r"|\bSG\.[\w-]{16,32}\.[\w-]{16,64}\b|\bdop_v1_[a-f0-9]{64}\b|\bkey-[0-9a-f]{32}\b"  # SendGrid and others
    r"|\beyJ[\w-]{10,2000}\.eyJ[\w-]{10,4000}\.[\w-]{10,1000}\b"  # JSON Web Token
)
_IN_ADDRESS = re.compile(r"(?<=://)([^\s:/@]{1,100}):([^\s:/@]{1,200})(?=@)")
_CUED = re.compile(
    r"(?:api[ _-]?key|secret(?:[ _-]?key)?|access[ _-]?(?:key|token)|auth(?:orization)?[ _-]?token|client[ _-]?secret"
    r"|private[ _-]?key|bearer|token|passw(?:or)?d|passphrase|pwd|credentials?)[\"']?"
    r"(?:\s{0,3}[:=]{1,2}\s{0,3}|\s{1,3}(?:is\s{1,3})?)[\"'`]?(?P<value>[^\s\"'`,;<>\[\]]{6,500})",
    re.IGNORECASE,
)
_PASSWORD = re.compile(r"passw|passphrase|pwd", re.IGNORECASE)


class Options(BaseOptions):
    """How mixed a string without a known format must be."""

    min_entropy: float = Field(
        3.0,
        description="Bits per character from which a string behind a cue is a secret (passwords: two thirds).",
        ge=0,
        le=8,
    )


SAMPLE: dict[str, Any] = {
    "options": {},
    "examples": [Text(text="export API_KEY=q9Zt7LwX2bVr5KmN8dHs"), Text(text="The token is a coin.")],
    "result": [Text(text=f"export API_KEY={TAG}"), Text(text="The token is a coin.")],
}


def run(examples: Examples, options: Options, around: Around = ALONE) -> StepResult:
    """Return the examples without credentials; none is dropped."""
    made = Rewritten(examples)
    num_changed = num_secrets = 0

    def read(text: str) -> str:
        return redact(text, options)

    for index, example in enumerate(examples):
        changed = map_text(example, read, around, arguments=True)
        if isinstance(changed, Problem) and (item := map_leaves(changed.item, read)) != changed.item:
            changed = identify(replace(changed, item=item))
        if changed is example:
            made.keep(index, example)
            continue
        num_changed += 1
        num_secrets += _num_tags(content_of(changed)) - _num_tags(content_of(example))
        made.add(index, changed)
    note = f"{num_secrets:,} secrets replaced in {num_changed:,} of {len(examples):,} rows"
    return StepResult(made.examples, made.origins, note, [])


def _num_tags(value: Any) -> int:
    """Return how many tags stand in an example's content; the JSON of arguments repeats what `arguments` says."""
    if isinstance(value, str):
        return value.count(TAG)
    if isinstance(value, dict):
        return sum(_num_tags(part) for name, part in value.items() if name != "arguments_text")
    return sum(map(_num_tags, value)) if isinstance(value, list) else 0


def redact(text: str, options: Options) -> str:
    """Return the text with `[SECRET]` for every credential."""

    def cued(found: re.Match[str]) -> str:
        value = found["value"].rstrip(".!?)")
        least = options.min_entropy * (2 / 3 if _PASSWORD.search(found[0]) else 1)
        if entropy(value) < least or not (
            any(map(str.isdigit, value)) or (_PASSWORD.search(found[0]) and not value.isalpha())
        ):
            return found[0]
        start = found.start("value") - found.start()
        return found[0][:start] + TAG + found[0][start + len(value) :]

    text = _KNOWN.sub(TAG, text)
    if "://" in text:
        text = _IN_ADDRESS.sub(rf"\1:{TAG}", text)
    return _CUED.sub(cued, text)


def entropy(value: str) -> float:
    """Return the Shannon entropy of a string's characters, in bits per character."""
    counts = Counter(value).values()
    return -sum(n / len(value) * math.log2(n / len(value)) for n in counts)
