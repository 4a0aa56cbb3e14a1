"""The step `balance`: how many rows of each group, which ones, and that only train changes."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from metier.core.errors import ConfigError
from metier.core.project import Project
from metier.core.recipe import Recipe
from metier.core.sections import Kind
from metier.core.types import Labelled, Text, identify
from metier.data.dataset import Dataset, build
from metier.data.steps import Around, balance, run_step
from metier.data.steps.balance import Options


def labelled(**counts: int) -> list[Any]:
    return [
        identify(Labelled(text=f"{label} {n}", target=label, place=f"{label}:{n}", meta={"site": label[0]}))
        for label, count in counts.items()
        for n in range(count)
    ]


def after(given: list[Any], **options: Any) -> dict[str, int]:
    result = balance.run(given, Options(**options), Around())
    assert [given[i] for i in result.origins] == result.examples
    assert len(set(result.origins)) + len(result.dropped) == len(given)
    return dict(Counter(str(e.target) for e in result.examples))


def test_down_and_up_by_a_ratio() -> None:
    given = labelled(fee=20, card=8, rate=4)
    assert after(given) == {"fee": 4, "card": 4, "rate": 4}
    assert after(given, ratio=2) == {"fee": 8, "card": 8, "rate": 4}
    assert after(given, ratio=2.5) == {"fee": 10, "card": 8, "rate": 4}
    assert after(given, ratio=100) == {"fee": 20, "card": 8, "rate": 4}
    assert after(given, resample="up") == {"fee": 20, "card": 20, "rate": 20}
    assert after(given, resample="up", ratio=2) == {"fee": 20, "card": 10, "rate": 10}
    assert after(given, resample="up", max_repeats=2) == {"fee": 20, "card": 16, "rate": 8}
    result = balance.run(given, Options(resample="up", max_repeats=2), Around())
    assert result.note == "32 → 44 rows in 3 groups by label: card 8 → 16, rate 4 → 8; 2 groups are still smaller" + (
        " (max_repeats=2)"
    )


def test_a_repeated_row_is_the_row_itself_and_all_come_before_one_comes_again() -> None:
    given = labelled(fee=10, card=4)
    result = balance.run(given, Options(resample="up"), Around())
    times = Counter(e.id for e in result.examples if e.target == "card")
    assert sorted(times.values()) == [2, 2, 3, 3] and set(times) <= {e.id for e in given}
    assert result.dropped == [] and result.origins == sorted(result.origins)


def test_which_rows_stay_depends_on_seed_and_id_and_not_on_the_order() -> None:
    given = labelled(fee=40, card=5)

    def kept(rows: list[Any], seed: int) -> set[str]:
        return {e.id for e in balance.run(rows, Options(seed=seed), Around()).examples}

    assert kept(given, 0) == kept(given[::-1], 0) != kept(given, 1)


def test_by_column_and_rows_without_a_value() -> None:
    given = [*labelled(fee=6, card=2), identify(Text(text="no group")), identify(Text(text="", meta={"site": ""}))]
    result = balance.run(given, Options(by="column", column="site"), Around())
    assert Counter(e.meta.get("site") for e in result.examples) == {"f": 2, "c": 2, None: 1, "": 1}
    assert result.note.endswith("2 rows without a group stay as they are") and "by site" in result.note
    many = [identify(Labelled(text=f"t{n}", target=("b", "a") if n % 3 else ("a",))) for n in range(9)]
    assert len(balance.run(many, Options(), Around()).examples) == 6


def test_by_language() -> None:
    pytest.importorskip("lingua", reason="pip install 'metier[curate]'")
    english = [f"The committee will meet again on day {n} to discuss the budget." for n in range(6)]
    german = [f"Der Ausschuss trifft sich am Tag {n} wieder wegen des Haushalts." for n in range(2)]
    given: list[Any] = [identify(Text(text=t)) for t in (*english, *german, "12345")]
    assert len(balance.run(given, Options(by="language"), Around()).examples) == 5


@pytest.mark.parametrize("options", [{"by": "column"}, {"column": "site"}, {"ratio": 0.5}, {"max_repeats": 1}])
def test_options_that_do_not_fit(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        run_step(Kind.model_validate({"kind": "balance", **options}), [])
    assert caught.value.code == "E211"


# ───────────────────────────────────────────────────────────────────────────── in a preparation


def made(tmp_path: Path, **options: Any) -> Dataset:
    project = Project.create(tmp_path / "project", "test")
    draw = [
        {
            "text": f"{n * 7919 % 1000} about {'fees' if n % 5 else 'cards'} {n}",
            "label": "card" if n % 5 == 0 else "fee",
        }
        for n in range(200)
    ]
    (project.root / "data" / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in draw))
    steps = [{"kind": "balance", **options}] if options else []
    data = {"sources": [{"path": "data/a.jsonl"}], "steps": steps, "split": {"near_duplicates": 1.0}}
    values = {"name": "desk", "objective": {"task": "classify"}, "data": data, "method": "classify"}
    return build(Recipe.build(values), project)


def test_copies_stand_in_train_alone_and_what_is_held_out_is_as_before(tmp_path: Path) -> None:
    plain, up = made(tmp_path / "a"), made(tmp_path / "b", resample="up")
    for split in ("validation", "test"):
        assert plain.examples(split) == up.examples(split)
    assert {e.id for e in up.examples("train")} == {e.id for e in plain.examples("train")}
    places = {e.place for e in up.examples("train")}
    assert places.isdisjoint(e.place for split in ("validation", "test") for e in up.examples(split))
    counts = up.manifest["label_counts"]
    assert counts["card"]["train"] == counts["fee"]["train"] == plain.manifest["label_counts"]["fee"]["train"]
    assert up.manifest["split_proof"]["groups_on_both_sides"] == 0
    (record,) = up.manifest["steps"]
    assert (record["rows_in"], record["rows_out"]) == (plain.count("train"), up.count("train"))
