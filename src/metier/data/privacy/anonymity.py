"""What a dataset version may be called: `not de-identified`, `de-identified`, `pseudonymized` or `anonymized`, and why.

Anonymous is what withstands singling out, linkability and inference (Article 29 Working Party, Opinion 05/2014). It is
claimed only where no vault reverses the rows and all three are measured to hold on the rows as they are written:

- *singling out*: every row is alike to at least four others, its text, label and columns together. Free text never is,
  so that a version of notes or letters is de-identified and no more;
- *linkability*: no surrogate and no column of subjects or groups joins the rows of one person;
- *inference*: among rows that are alike in the quasi-identifiers, what else they say differs.

k is the size of the smallest class of rows that are alike (Sweeney 2002, k-anonymity). Left out: t-closeness, and
attacks with knowledge from outside. What the rules did not find stays in the text; docs/privacy.md has their recall.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metier.core.types import Example, Problem, content_of
from metier.data.digests import Digests

SMALLEST = 5
"""The least size of a class of rows that are alike; a usual bound for releases of health data."""


@dataclass(frozen=True, slots=True)
class Classes:
    """Rows divided into classes that are alike: `k` is the smallest class (0 without rows), `num_small` the rows in
    classes below SMALLEST; `people` says that these sizes count people, not rows."""

    k: int
    num_rows: int
    num_small: int
    people: bool = False

    @classmethod
    def of(cls, keys: Iterable[Hashable], subjects: Iterable[Hashable] | None = None) -> Classes:
        """Count rows by a key that is the same for those that are alike.

        Args:
            keys: of N rows.
            subjects: whom each of the N rows is about; None for a row of which nobody says, which counts as one person.
        """
        rows: Counter[Hashable] = Counter()
        known: set[tuple[Hashable, Hashable]] = set()
        sizes: Counter[Hashable] = Counter()
        for key, subject in zip(keys, repeat(None) if subjects is None else subjects, strict=False):
            rows[key] += 1
            if subject is None or (key, subject) not in known:
                sizes[key] += 1
                known |= {(key, subject)} if subject is not None else set()
        num_small = sum(rows[key] for key, size in sizes.items() if size < SMALLEST)
        return cls(min(sizes.values(), default=0), rows.total(), num_small, subjects is not None)

    @classmethod
    def counted(cls, class_N: NDArray[np.int64], person_N: NDArray[np.int64] | None = None) -> Classes:
        """Count N rows by the numbers of their classes and, where they are known, of the people they are about."""
        rows_C = np.bincount(class_N)
        size_C = rows_C
        if person_N is not None:
            base = int(person_N.max(initial=0)) + 1  # a class and a person in one number
            size_C = np.bincount(np.unique(class_N * base + person_N) // base, minlength=len(rows_C))
        small_C = size_C < SMALLEST  # a number without a row adds none
        k = int(size_C[rows_C > 0].min(initial=np.iinfo(np.int64).max)) if len(class_N) else 0
        return cls(k, len(class_N), int(rows_C[small_C].sum()), person_N is not None)

    def to_text(self) -> str:
        """Return the figures as words."""
        share = f" ({100 * self.num_small / self.num_rows:.1f} %)" if self.num_rows else ""
        below = f"below {SMALLEST}{' people' if self.people else ''}"
        return f"k = {self.k}, {self.num_small:,} of {self.num_rows:,} rows{share} in classes {below}"

    def to_json(self) -> dict[str, Any]:
        """Return the figures as data."""
        people = {"people": True} if self.people else {}
        return {"k": self.k, "rows": self.num_rows, "rows_below_5": self.num_small, **people}


def classes_of(rows: Sequence[Example], quasi_identifiers: Sequence[str], subjects: Sequence[str] = ()) -> Classes:
    """Return the classes of rows that are alike in some columns; `subjects` are those that say whom a row is about."""
    about = (_subject(row, subjects) for row in rows)
    return Classes.of((alike_in(quasi_identifiers, row) for row in rows), about if subjects else None)


def _subject(row: Example, columns: Sequence[str]) -> Hashable:
    """Return whom a row is about, None where its columns say nothing."""
    values = (row.meta.get(column) for column in columns)
    found = tuple("" if value is None else str(value).strip() for value in values)
    return found if any(found) else None


def columns_in(example: Example) -> list[str]:
    """Return the columns that a row has beside its text: those of `meta`, and what the graders of a problem read."""
    item = example.item if isinstance(example, Problem) else {}
    return list(dict.fromkeys((*example.meta, *item)))


def alike_in(columns: Sequence[str], example: Example) -> Hashable:
    """Return a key of the values that a row has in these columns; an absent value is a value of its own."""
    return tuple(json.dumps(example.meta.get(column), sort_keys=True, default=str) for column in columns)


def statement(
    rows: Iterable[Example],
    *,
    profiles: Sequence[str],
    vault: str | None,
    quasi_identifiers: Sequence[str] = (),
    named: Collection[str] = (),
    linking: Sequence[str] = (),
    subjects: Sequence[str] = (),
) -> dict[str, Any]:
    """Return what the manifest says of a version's privacy: figures and words, never a value.

    Args:
        rows: all rows that are written, of every split; one that `balance` repeats is one person's all the same, and
            counts once.
        profiles: those of the `deidentify` steps; none: nothing was de-identified.
        vault: the vault's path where a step drew surrogates.
        quasi_identifiers: columns that together may point at a person.
        named: columns of which the steps say what becomes of them.
        linking: columns that say which rows belong together (subject, group).
        subjects: columns that say whom a row is about: classes are counted in people then.
    """
    if not profiles:
        return {"status": "not de-identified", "why": "no step removes what identifies people"}
    seen = _Seen.of(rows, quasi_identifiers, subjects)
    removed = f"what the rules find for {' and '.join(dict.fromkeys(profiles))}"
    facts: dict[str, Any] = {"profiles": list(dict.fromkeys(profiles)), "vault": vault}
    if unread := sorted(seen.columns - set(named)):
        facts["columns_not_read"] = unread
    if quasi_identifiers:
        figures = Classes.counted(seen.class_N, seen.person_N if subjects else None)
        facts["quasi_identifiers"] = {"columns": list(quasi_identifiers), **figures.to_json()}
    if vault:
        why = (
            f"surrogates stand for {removed}, and whoever has {vault} and its key can reverse them: still personal data"
            " (GDPR art. 4(5)). Without the vault they still join the rows of a person: de-identified, not anonymized"
        )
        return {"status": "pseudonymized", "why": why, **facts}
    checks = _checks(seen, quasi_identifiers, linking)
    failed = [check["what"] for check in checks.values() if not check["passed"]]
    why = f"{removed} is gone, and no vault reverses it"
    why += f"; anonymity is not proved: {'; '.join(failed)}" if failed else "; no row stands out, links or gives away"
    return {"status": "de-identified" if failed else "anonymized", "why": why, **facts, "checks": checks}


@dataclass(frozen=True, slots=True)
class _Seen:
    """What one look at the rows found; of rows with one id and place, which are repetitions, the first one counts.

    `whole_N` numbers what a row says with its columns, `content_N` what it says, `class_N` its quasi-identifiers,
    `person_N` whom it is about: a row of which nobody says is a person of its own. `columns` stand beside the text,
    `meta` are those that say more than what the graders of a problem read.
    """

    columns: set[str]
    meta: set[str]
    whole_N: NDArray[np.int64]
    content_N: NDArray[np.int64]
    class_N: NDArray[np.int64]
    person_N: NDArray[np.int64]

    @classmethod
    def of(cls, rows: Iterable[Example], quasi: Sequence[str], subjects: Sequence[str]) -> _Seen:
        columns: set[str] = set()
        meta: set[str] = set()
        once, whole, content, classes, people = (Digests() for _ in range(5))
        for number, row in enumerate(rows):
            columns.update(columns_in(row))
            meta.update(row.meta)
            said = content_of(row)
            once.add(repr((row.id, row.place or number)).encode("utf-8", "surrogatepass"))
            whole.add(_bytes({"content": said, "columns": dict(row.meta)}))
            content.add(_bytes({"content": said}))
            classes.add(repr(alike_in(quasi, row)).encode("utf-8", "surrogatepass"))
            people.add(repr(_subject(row, subjects) or number).encode("utf-8", "surrogatepass"))
        first_U = once.numbered()[1]
        return cls(columns, meta, *(found.numbered()[0][first_U] for found in (whole, content, classes, people)))


def _checks(seen: _Seen, quasi: Sequence[str], linking: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the three checks: whether each is passed, and what was seen."""
    num_rows = len(seen.class_N)
    base = int(seen.content_N.max(initial=0)) + 1
    whole = Classes.counted(seen.whole_N)
    # A class and a content in one number: a class that has one of them says one thing only.
    pairs = np.unique(seen.class_N * base + seen.content_N)
    num_said = np.unique(pairs // base, return_counts=True)[1]
    num_giving = int((num_said < 2).sum())
    kept = [column for column in linking if column in seen.meta]
    return {
        "singling_out": {
            "passed": whole.k >= SMALLEST,
            "what": f"rows alike in text, label and every column have {whole.to_text()}",
        },
        "linkability": {
            "passed": not kept,
            "what": f"columns that join the rows of a person stay: {', '.join(kept) or 'none'}",
        },
        "inference": {
            "passed": num_giving == 0 and num_rows > 0,
            "what": f"{num_giving:,} of {len(num_said):,} classes of rows alike in"
            f" {', '.join(quasi) or 'no named column'} say one thing only",
        },
    }


def _bytes(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, default=str).encode("utf-8", "surrogatepass")
