"""The data card and the data report of a dataset version: what is in it, where it came from, what is missing.

The figures are those of figures.py, and stand in report.json. `card` gives card.md in Hugging Face's front matter;
`render` gives one HTML page without script or network. Both are pure: the same manifest and figures give the same
bytes. Neither shows the content of a row beyond label and column values, and words that many rows share
(disclosure.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from metier.core import page
from metier.core.page import MISSING
from metier.core.project import read_json, write_json, write_text
from metier.data.figures import MAX_VALUES

PACKAGE = "metier.data"
FILES = ("card.md", "report.json", "report.html")
NO_KEYWORD = "(no word that may be shown)"
DIVERSITY_HEADER = (
    "", "Texts", "Words", "distinct-1", "distinct-2", "distinct-3", "Ten most frequent runs", "Most frequent opening"
)  # fmt: skip
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def write(folder: Path, manifest: Mapping[str, Any], figures: Mapping[str, Any]) -> Path:
    """Write card.md, report.json and report.html beside the manifest; return the page's path.

    Raises:
        MachineError: E420–E422, the folder cannot be written.
    """
    head = {"dataset": _reference(manifest), "digest": manifest.get("digest"), "counts": manifest.get("counts", {})}
    write_text(folder / "card.md", card(manifest, figures))
    write_json(folder / "report.json", {**head, **figures})
    write_text(folder / "report.html", render(manifest, figures))
    return folder / "report.html"


def stated_in(folder: Path) -> dict[str, Any] | None:
    """Return what the report of a version says of the audience, or None where one of its files is missing."""
    if not all((folder / name).exists() for name in FILES):
        return None
    return dict(read_json(folder / "report.json").get("stated", {}))


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


# ───────────────────────────────────────────────────────────────────────────── what the templates read


def _context(manifest: Mapping[str, Any], figures: Mapping[str, Any]) -> dict[str, Any]:
    counts = manifest.get("counts", {})
    proof = manifest.get("split_proof", {})
    quarantine = _quarantine(manifest.get("quarantine", {}))
    balance = figures.get("balance", {})
    return {
        "created": manifest.get("created", ""),
        "kinds": manifest.get("kinds", {}),
        "reference": _reference(manifest),
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
        "label_balance": _balance(balance.get("labels", {})),
        "column_balance": {name: _balance(facts) for name, facts in balance.get("columns", {}).items()},
        "groups": figures.get("groups", {}),
        "alike": {split: n for split, n in proof.get("near_duplicates_within", {}).items() if n},
        "repeated": {split: n for split, n in figures.get("repeated", {}).items() if n},
        "languages": _shares(_unsplit(figures.get("languages", {}).get("rows", {}))),
        "too_short": figures.get("languages", {}).get("too_short", 0),
        "scripts": [(name, page.number(share, "share")) for name, share in figures.get("scripts", {}).items()],
        "stated": figures.get("stated", {}),
        "gaps": figures.get("gaps", []),
        "sample": figures.get("sample", {}),
        "sampled": _sampled(figures.get("sample", {"rows": 0, "of": 0})),
        **_topics(figures.get("topics", {})),
        "diversity_header": DIVERSITY_HEADER,
        "diversity": _diversity(figures),
        "openings": _openings(figures),
        "lengths": {split: facts for split, facts in figures.get("lengths", {}).items() if facts.get("n")},
        "prompt": page.flat({k: v for k, v in (manifest.get("prompt") or {}).items() if v}),
        "digests": [("dataset", str(manifest.get("digest", MISSING)))]
        + [(_name(s.get("path")), str(s.get("sha256", MISSING))) for s in _sources(manifest)],
        "parents": [str(parent) for parent in manifest.get("parents", [])],
    }


def _reference(manifest: Mapping[str, Any]) -> str:
    return f"data:{manifest['name']}@{manifest.get('version', '')}".removesuffix("@")


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
        below = "below 5 people" if quasi.get("people") else "below 5"
        rows.append((f"k-anonymity by {', '.join(quasi['columns'])}", f"{figures} {below}"))
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


def _sampled(sample: Mapping[str, int]) -> str:
    """Return how many rows topics and diversity were measured on, in words."""
    if sample["rows"] == sample["of"]:
        return f"all {sample['of']:,} rows"
    return f"{sample['rows']:,} of the {sample['of']:,} rows, drawn by hash"


def _unsplit(counts: Mapping[str, int]) -> dict[str, dict[str, int]]:
    return {name: {"": n} for name, n in counts.items()}


def _balance(facts: Mapping[str, Any]) -> str:
    """Return in a few words how even a division of the training rows is; nothing for a single value."""
    if not facts:
        return ""
    ratio = f"{page.number(facts['ratio'])} to 1" if facts["ratio"] is not None else "a value without a row"
    rarest = f"{facts['smallest']:,} ({page.label(facts['rarest'])})"
    return f"from {rarest} to {facts['largest']:,} rows, {ratio}; evenness {page.number(facts['evenness'])}"


def _topics(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return `topics` as _shares has them, and what is said of them."""
    topics = facts.get("topics", [])
    totals = [sum(topic["rows"].values()) for topic in topics]
    rows = [
        (", ".join(topic["keywords"]) or NO_KEYWORD, n, topic["rows"], round(100 * n / max(totals), 1))
        for topic, n in zip(topics, totals, strict=True)
    ]
    return {"topics": rows, "topic_evenness": facts.get("evenness"), "rows_in_no_topic": facts.get("rows_in_none", 0)}


def _diversity(figures: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return a row under DIVERSITY_HEADER for each side."""
    found = []
    for side, facts in figures.get("diversity", {}).items():
        opening = figures["openings"][side]
        shares = [*(facts[f"distinct_{n}"] for n in (1, 2, 3)), facts["frequent_3"], opening["largest"]]
        found.append((side, f"{facts['texts']:,}", f"{facts['words']:,}", *(page.number(s, "share") for s in shares)))
    return found


def _openings(figures: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """Return (side, words, texts, share of the texts) of the frequent openings that may be shown."""
    return [
        (side, f"{words} …", f"{n:,}", page.number(n / facts["texts"], "share"))
        for side, facts in figures.get("openings", {}).items()
        for words, n in facts["shown"]
    ]


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
    found += [f"{gap['what']}: {', '.join(gap['names'])}" for gap in figures.get("gaps", [])]
    if not figures.get("columns"):
        found.append("No column describes groups (language, region …): how well each is represented cannot be said.")
    return found
