"""The data card and the data report of a dataset version: what is in it, where it came from, what is missing.

`measure` counts what the manifest does not hold (labels, lengths, values of columns per split). `card` gives card.md
in Hugging Face's front matter; `render` gives one HTML page without script or network. Both are pure: the same
manifest and figures give the same bytes, and neither shows the content of a row beyond label and column values.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from metier.core import page
from metier.core.page import MISSING
from metier.core.project import write_text
from metier.core.types import Conversation, Example, Labelled, Preference, Rated, Text
from metier.data.canaries import without

PACKAGE = "metier.data"
MAX_VALUES = 12
"""A column with more distinct values is a free text or a key, not a group."""
NUM_BINS = 24
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def write(folder: Path, manifest: Mapping[str, Any], figures: Mapping[str, Any]) -> Path:
    """Write card.md and report.html beside the manifest; return the page's path.

    Raises:
        MachineError: E420–E422, the folder cannot be written.
    """
    write_text(folder / "card.md", card(manifest, figures))
    write_text(folder / "report.html", render(manifest, figures))
    return folder / "report.html"


def render(manifest: Mapping[str, Any], figures: Mapping[str, Any]) -> str:
    """Return the data report as one HTML page."""
    template = page.templates(PACKAGE, "html", 2000).get_template("data_report.html.j2")
    return str(template.render(_context(manifest, figures)))


def card(manifest: Mapping[str, Any], figures: Mapping[str, Any]) -> str:
    """Return the data card: Hugging Face front matter and Markdown."""
    front = yaml.safe_dump(front_matter(manifest), sort_keys=False, allow_unicode=True, width=1000)
    template = page.templates(PACKAGE, "md", 1000).get_template("data_card.md.j2")
    return f"---\n{front}---\n\n" + page.squeezed(template.render(_context(manifest, figures)))


def front_matter(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return the card's metadata in Hugging Face's keys; what is not known is left out."""
    licenses = {str((s.get("permission") or {}).get("license") or "unknown").lower() for s in _sources(manifest)}
    total = sum(manifest.get("counts", {}).values())
    kinds = manifest.get("kinds", {})
    head = {"pretty_name": page.label(manifest["name"], 90)}
    head["license"] = licenses.pop() if len(licenses) == 1 else "other" if licenses else "unknown"
    task = "text-classification" if "labelled" in kinds else "text-generation"
    bucket = next((name for limit, name in _SIZES if total < limit), "n>1M")
    return {**head, "task_categories": [task], "size_categories": [bucket], "tags": ["metier"]}


# ───────────────────────────────────────────────────────────────────────────── counting


def measure(splits: Mapping[str, Sequence[Example]]) -> dict[str, Any]:
    """Count labels, lengths and the values of columns; planted canaries are no rows of the data.

    Returns:
        `labels`: label → split → rows; `lengths`: split → p50, p90, p99, max and bins [low, high, rows] in characters;
        `columns`: column → value → split → rows, for columns with 2 to 12 distinct values.
    """
    labels: dict[str, Counter[str]] = {}
    columns: dict[str, dict[str, Counter[str]]] = {}
    rows = {split: without(examples) for split, examples in splits.items()}
    for split, examples in rows.items():
        for example in examples:
            for label in _labels(example):
                labels.setdefault(label, Counter())[split] += 1
            for column, value in example.meta.items():
                if isinstance(value, str | int | bool):
                    columns.setdefault(column, {}).setdefault(str(value), Counter())[split] += 1
    return {
        "labels": {label: dict(counts) for label, counts in sorted(labels.items())},
        "lengths": {split: _lengths([_num_characters(e) for e in examples]) for split, examples in rows.items()},
        "columns": {
            column: {value: dict(counts) for value, counts in sorted(values.items())}
            for column, values in sorted(columns.items())
            if 2 <= len(values) <= MAX_VALUES
        },
    }


def _labels(example: Example) -> tuple[str, ...]:
    if not isinstance(example, Labelled) or isinstance(example.target, float):
        return ()
    return (example.target,) if isinstance(example.target, str) else example.target


def _num_characters(example: Example) -> int:
    """Return the characters of a row, all messages together."""
    if isinstance(example, Text | Labelled):
        return len(example.text)
    if isinstance(example, Conversation):
        return sum(len(message.text) for message in example.messages)
    if isinstance(example, Preference):
        messages = (*example.prompt, *example.chosen, *example.rejected)
    elif isinstance(example, Rated):
        messages = (*example.prompt, *example.completion)
    else:
        messages = example.prompt
    return sum(len(message.text) for message in messages)


def _lengths(lengths: Sequence[int]) -> dict[str, Any]:
    """Return percentiles (nearest rank) and equal bins up to the 99th; the last bin holds the rest."""
    if not lengths:
        return {"n": 0}
    ordered = sorted(lengths)

    def rank(share: float) -> int:
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    width = max(1, -(-(rank(0.99) + 1) // NUM_BINS))
    counts = Counter(min(length // width, NUM_BINS - 1) for length in ordered)
    bins = [[i * width, (i + 1) * width, counts[i]] for i in range(NUM_BINS)]
    bins[-1][1] = max(bins[-1][1], ordered[-1] + 1)
    return {"n": len(ordered), "p50": rank(0.5), "p90": rank(0.9), "p99": rank(0.99), "max": ordered[-1], "bins": bins}


# ───────────────────────────────────────────────────────────────────────────── what the templates read


def _context(manifest: Mapping[str, Any], figures: Mapping[str, Any]) -> dict[str, Any]:
    counts = manifest.get("counts", {})
    proof = manifest.get("split_proof", {})
    quarantine = _quarantine(manifest.get("quarantine", {}))
    return {
        "created": manifest.get("created", ""),
        "kinds": manifest.get("kinds", {}),
        "reference": f"data:{manifest['name']}@{manifest.get('version', '')}".removesuffix("@"),
        "counts": counts,
        "split_rows": [(split, f"{n:,}") for split, n in counts.items()],
        "total": sum(counts.values()),
        "source_header": page.SOURCE_HEADER,
        "source_rows": [page.source_row(source) for source in _sources(manifest)],
        "reasons": [(_name(s.get("path")), str(s.get("reason") or MISSING)) for s in _sources(manifest)],
        "step_rows": [
            (s.get("name", MISSING), page.cell(s.get("rows_in")), page.cell(s.get("rows_out")), s.get("note", ""))
            for s in manifest.get("steps", [])
        ],
        "privacy_rows": _privacy(manifest.get("privacy") or {}),
        "quarantine_rows": quarantine,
        "num_quarantined": sum(int(row[1].replace(",", "")) for row in quarantine),
        "proof_rows": page.flat(_counts_only(proof)),
        "num_leaks": sum(proof.get("leaks", {}).values()),
        "missing": _missing(manifest, figures),
        "splits": list(counts),
        "labels": _shares(figures.get("labels", {})),
        "columns": {name: _shares(values) for name, values in figures.get("columns", {}).items()},
        "lengths": {split: facts for split, facts in figures.get("lengths", {}).items() if facts.get("n")},
        "prompt": page.flat({k: v for k, v in (manifest.get("prompt") or {}).items() if v}),
        "digests": [("dataset", str(manifest.get("digest", MISSING)))]
        + [(_name(s.get("path")), str(s.get("sha256", MISSING))) for s in _sources(manifest)],
        "parents": [text for _, text in page.flat(manifest.get("parents", []))],
    }


def _sources(manifest: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return list(manifest.get("sources", []))


def _name(path: Any) -> str:
    """Return a path as the card may show it: as written when it is relative, else its last part."""
    text = str(path or MISSING)
    return text if not re.match(r"[/~\\]", text) else text.replace("\\", "/").rsplit("/", 1)[-1]


def _counts_only(proof: Mapping[str, Any]) -> dict[str, Any]:
    """Leave the ids of single rows out of the page."""
    return {key: value for key, value in proof.items() if not isinstance(value, list)}


def _privacy(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return (what, words) of the manifest's statement on privacy."""
    rows = [(name, str(facts[name])) for name in ("status", "why", "vault") if facts.get(name)]
    if unread := facts.get("columns_not_read"):
        rows.append(("columns that stay as they were read", ", ".join(unread[:MAX_VALUES])))
    if quasi := facts.get("quasi_identifiers"):
        share = 100 * quasi["rows_below_5"] / max(quasi["rows"], 1)
        figures = f"k = {quasi['k']:,}; {quasi['rows_below_5']:,} of {quasi['rows']:,} rows ({share:.1f} %) in classes"
        rows.append((f"k-anonymity by {', '.join(quasi['columns'])}", f"{figures} below 5"))
    for name, check in facts.get("checks", {}).items():
        passed = "holds" if check["passed"] else "does not hold"
        rows.append((str(name).replace("_", " "), f"{passed}: {check['what']}"))
    return rows


def _quarantine(facts: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """Return (reason, rows, first place, what) for `{reason: count}` or `{reason: {count, first, what}}`."""
    found = facts.get("reasons", facts)
    rows = []
    for reason, value in found.items():
        entry = value if isinstance(value, Mapping) else {"count": value}
        rows.append((reason, f"{entry.get('count', 0):,}", str(entry.get("first", "")), str(entry.get("what", ""))))
    return rows


def _shares(values: Mapping[str, Mapping[str, int]]) -> list[tuple[str, int, Mapping[str, int], float]]:
    """Return (value, rows, rows per split, share of the largest in percent), the most frequent first."""
    totals = {value: sum(counts.values()) for value, counts in values.items()}
    largest = max(totals.values(), default=1) or 1
    ordered = sorted(totals.items(), key=lambda item: (-item[1], item[0]))
    return [(value, n, values[value], round(100 * n / largest, 1)) for value, n in ordered]


def _missing(manifest: Mapping[str, Any], figures: Mapping[str, Any]) -> list[str]:
    """Return, in sentences, what a careful reader would ask for and not find."""
    found = []
    if planted := manifest.get("canaries"):
        found.append(
            f"Train holds {planted['rows']} planted rows ({planted['num']} canaries), which no figure here counts."
        )
    sources = _sources(manifest)
    permissions = [source.get("permission") or {} for source in sources]
    for key, text in (
        ("license", "license"),
        ("basis", "legal basis"),
        ("personal_data", "statement on personal data"),
    ):
        absent = sum(permission.get(key) is None for permission in permissions)
        if absent:
            found.append(f"{absent} of {len(sources)} sources have no {text}.")
    personal = sum(permission.get("personal_data") is True for permission in permissions)
    if personal and (manifest.get("privacy") or {}).get("status") == "not de-identified":
        found.append(f"{personal} of {len(sources)} sources hold personal data, and no step de-identifies them.")
    for split in ("validation", "test"):
        if 0 < manifest.get("counts", {}).get(split, 0) < 100:
            found.append(f"The {split} split has fewer than 100 rows: too few for a verdict.")
        elif not manifest.get("counts", {}).get(split, 0):
            found.append(f"There is no {split} split.")
    labels = figures.get("labels", {})
    few = sorted(label for label, counts in labels.items() if counts.get("train", 0) < 10)
    if few:
        names = ", ".join(page.label(name) for name in few[:5]) + (" …" if len(few) > 5 else "")
        found.append(f"{len(few)} of {len(labels)} labels have fewer than 10 training rows: {names}")
    if not figures.get("columns"):
        found.append("No column describes groups (language, region …): how well each is represented cannot be said.")
    return found
