"""The cards of `metier data check` and the before/after of `metier data prepare`: counts, commands that work, and that
the text of rows is seen on a terminal and nowhere else."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import shlex
from pathlib import Path
from typing import Any

import pytest

from metier.actions.check import Finding, check
from metier.cli import app
from metier.core.project import Project
from metier.core.recipe import Recipe

FIRST = "amber birch cedar delta ember fjord grove haven inlet jetty knoll ledge marsh".split()  # noqa: SIM905
SECRET = "the wolf waited by the old mill"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def rows() -> list[dict[str, str]]:
    made = [
        {
            "text": f"{FIRST[i % 13]} {FIRST[(i * 5 + i // 13) % 13]} letter {i * 7919}",
            "label": "fee" if i % 2 else "card",
        }
        for i in range(150)
    ]
    made[3]["text"] = f"{SECRET}\x07 {'no ' * 3}"
    made += [dict(made[5]) for _ in range(4)]
    made += [{"text": f"{SECRET} {'again and again ' * 20}{n}", "label": "fee"} for n in (1, 77_777)]
    return made


def desk(tmp_path: Path, made: list[Any], **data: Any) -> Project:
    project = Project.create(tmp_path / "project", "desk")
    (project.root / "data" / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))
    recipe = {
        "name": "desk",
        "objective": {"task": "classify"},
        "data": {"sources": [{"path": "data/a.jsonl"}], **data},
        "method": "classify",
    }
    (project.root / "recipes" / "desk.yaml").write_text(json.dumps(recipe))
    return project


def found(project: Project, *overrides: str) -> dict[str, Finding]:
    recipe = Recipe.read(project.root / "recipes" / "desk.yaml", overrides=overrides)
    return {finding.code: finding for finding in check(recipe, project)}


def command(project: Project, *argv: str, out: io.StringIO | None = None) -> tuple[int, str]:
    stream = out or io.StringIO()
    with contextlib.chdir(project.root), contextlib.redirect_stdout(stream), contextlib.redirect_stderr(io.StringIO()):
        return app.run(list(argv)), stream.getvalue()


def test_a_card_for_each_step_that_would_act_with_the_command_that_repairs_it(tmp_path: Path) -> None:
    project = desk(tmp_path, rows(), split={"validation": 0.0, "test": 0.0})
    cards = found(project)
    assert (cards["E335"].count, cards["E337"].count, cards["E338"].count) == (5, 2, 1)
    assert cards["E337"].places[0].endswith("repeated words")
    assert cards["E338"].places == ["a.jsonl:4"]
    fix = shlex.split(cards["E335"].fix)
    assert fix[:3] == ["metier", "data", "prepare"]
    code, text = command(project, *fix[1:], "--json")
    (step,) = json.loads(text)["steps"]
    assert code == 0 and (step["name"], sum(step["dropped"].values())) == ("deduplicate", 5)
    assert "E335" not in found(project, fix[3])


def test_a_step_is_put_where_it_runs(tmp_path: Path) -> None:
    project = desk(tmp_path, rows(), steps=["filter_quality", {"kind": "balance", "ratio": 2}])
    cards = found(project)
    assert cards["E335"].fix == (
        "metier data prepare 'data.steps=[filter_quality, {kind: deduplicate, match: near}, {kind: balance, ratio: 2}]'"
    )
    assert "E337" not in cards


def test_overlap_with_given_rows_and_rare_labels_name_their_steps(tmp_path: Path) -> None:
    made = [{"text": r["text"], "label": "card" if i == 7 else "fee"} for i, r in enumerate(rows()[:149])]
    project = desk(tmp_path, made)
    (project.root / "data" / "t.jsonl").write_text(json.dumps({**made[20], "text": made[20]["text"].upper()}) + "\n")
    sources = "[{path: data/a.jsonl, split: train}, {path: data/t.jsonl, split: test}]"
    cards = found(project, f"data.sources={sources}", "data.split.validation=0")
    assert cards["E331"].fix == "metier data prepare 'data.steps=[decontaminate]'"
    assert (cards["E336"].count, cards["E336"].places) == (1, ["a.jsonl:21 near duplicate of test"])
    listed = "data.steps=[{kind: decontaminate, splits: [validation]}]"
    again = found(project, f"data.sources={sources}", "data.split.validation=0", listed)["E331"]
    assert again.count == 1 and "data.steps" not in again.fix and "leaking_ids" in again.fix  # not the step once more
    assert cards["E332"].fix == "metier data prepare 'data.steps=[{kind: balance, ratio: 5.0, resample: up}]'"


def test_every_sort_of_leak_that_the_proof_counts_is_a_card(tmp_path: Path) -> None:
    made = [{**r, "who": f"p{i}", "day": 2000 + i} for i, r in enumerate(rows()[:149])]
    held = [{**r, "text": f"{r['text']} apart {i * 104_729}", "who": f"q{i}", "day": 3000 + i}
            for i, r in enumerate(made[:40])]  # fmt: skip
    project = desk(tmp_path, made[:109])
    for name, part in (("v", held[:20]), ("t", held[20:])):
        (project.root / "data" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    sources = ", ".join(
        f"{{path: data/{name}.jsonl, split: {split}}}"
        for name, split in (("a", "train"), ("v", "validation"), ("t", "test"))
    )
    told = (f"data.sources=[{sources}]", "data.split.group_by=who", "data.split.time_by=day")
    fine = found(project, *told)
    assert fine["E330"].level == "ok" and not {"E331", "E342", "E343", "E344"} & fine.keys()
    held[0] |= {"text": made[5]["text"].upper()}
    held[1] |= {"day": 1990}
    held[2] |= {"who": "p9"}
    held[20] |= {"who": "p7"}
    for name, part in (("v", held[:20]), ("t", held[20:])):
        (project.root / "data" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    cards = found(project, *told)
    assert "E330" not in cards and "E331" not in cards
    assert (cards["E342"].count, cards["E343"].count) == (1, 2) and "1 of test, 1 of validation" in cards["E343"].what
    assert cards["E344"].count == 109  # all of train is as late as the earliest validation row
    assert cards["E342"].fix == "metier data prepare 'data.steps=[decontaminate]'"
    assert {cards[code].level for code in ("E342", "E343", "E344")} == {"warning"}
    mended = found(project, *told, "data.steps=[decontaminate]")
    assert "E342" not in mended and mended["E343"].count == 2


def test_rows_that_are_asked_alike_are_no_repetitions_in_a_card(tmp_path: Path) -> None:
    project = desk(tmp_path, [{"prompt": f"{w} lost", "completion": "We look into it."} for w in FIRST])
    user = "Please read what a customer says, and answer it in one short and polite sentence that helps: {prompt}\n"
    data = {"sources": [{"path": "data/a.jsonl"}], "prompt": {"user": user}, "split": {"validation": 0.0, "test": 0.0}}
    recipe = Recipe.build({"name": "desk", "objective": {"task": "chat"}, "data": data, "method": "sft"})
    assert not {"E335", "E338"} & {finding.code for finding in check(recipe, project)}


def test_rows_that_the_division_refuses_are_counted_once(tmp_path: Path) -> None:
    made = [{**r, "day": 2000 + i} for i, r in enumerate(rows()[:140])]
    made[3] |= {"day": "03/15/2021"}
    made[4] |= {"day": ""}
    made[5] |= {"label": None}
    project = desk(tmp_path, made, steps=["clean", {"kind": "balance", "ratio": 5}], split={"time_by": "day"})
    code, text = command(project, "data", "prepare")
    table = [line.split() for line in text.splitlines()[:6]]
    assert code == 0 and [line[0] for line in table] == ["step", "read", "clean", "divided", "balance", "written"]
    assert table[1][1:] == ["140", "139", "1", "to", "quarantine"] and table[2][1:3] == ["139", "139"]
    assert table[3][1:] == ["139", "137", "2", "to", "quarantine"]
    (folder,) = (project.root / "datasets" / "desk").glob("v1-*")
    manifest = json.loads((folder / "manifest.json").read_text())
    quarantine, (source,) = manifest["quarantine"], manifest["sources"]
    assert (quarantine["num_rows"], quarantine["rows"], quarantine["in_division"]) == (140, 3, 2)
    assert (source["rows"], source["quarantined"]) == (137, 3)
    unreadable = quarantine["reasons"]["unreadable-time"]
    assert unreadable["what"] == "`day` is neither a number nor a date or time of ISO 8601"


def test_what_the_rows_lack_is_a_card_with_the_command_that_mends_it(tmp_path: Path) -> None:
    made = [
        {
            "text": f"{FIRST[i % 13]} {FIRST[i // 13]} note {i}",
            "label": "card" if i % 2 else "fee",
            "ward": i % 40 // 39,
        }
        for i in range(160)
    ]
    project = desk(tmp_path, made, split={"validation": 0.0, "test": 0.0})
    assert "E339" not in found(project)  # the recipe names no groups
    card = found(project, "evaluation.slices=[ward]")["E339"]
    assert (card.level, card.what) == ("warning", "1 of 2 values of ward have under a tenth of an even share of train")
    assert (card.count, card.places) == (1, ["1 4"])
    fix = shlex.split(card.fix)
    code, text = command(project, *fix[1:], "evaluation.slices=[ward]", "--json")
    assert code == 0 and json.loads(text)["rows"]["train"] > 160
    assert "E339" not in found(project, *fix[3:], "evaluation.slices=[ward]")


def test_likely_wrong_labels_are_a_card_whether_the_step_is_listed_or_not(tmp_path: Path) -> None:
    made = [
        {"text": f"{'charge cost' if i % 2 else 'lost stolen'} {i}", "label": "fee" if i % 2 else "card"}
        for i in range(80)
    ]
    made[11]["label"] = "card"
    split = {"validation": 0.0, "test": 0.0, "near_duplicates": 1.0}
    project = desk(tmp_path, made, split=split)
    tried, listed = found(project)["E334"], found(project, "data.steps=[label_issues]")["E334"]
    for card in (tried, listed):
        assert (card.count, card.places) == (1, ["a.jsonl:12 card → fee"])
    assert tried.fix == "metier data prepare 'data.steps=[label_issues]'"
    assert listed.fix.startswith("less private/review/desk/")


def test_the_text_of_rows_is_on_the_terminal_and_nowhere_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    broken = [*rows(), {"text": SECRET, "label": None}]
    project = desk(tmp_path, broken, split={"validation": 0.0, "test": 0.0})
    with caplog.at_level(logging.DEBUG):
        cards = found(project)
        assert SECRET in json.dumps([c.examples for c in cards.values()])
        for card in cards.values():
            assert SECRET not in card.model_dump_json() + repr(card)
        assert SECRET not in command(project, "data", "check")[1]
        assert SECRET not in command(project, "data", "check", "--json")[1]
        shown = command(project, "data", "check", out=Terminal())[1]
        assert SECRET not in command(project, "data", "prepare", out=Terminal())[1]
    assert SECRET in shown and "\x07" not in shown and "\\x07" in shown
    assert SECRET not in caplog.text and SECRET not in (project.root / "audit.jsonl").read_text()
    lines = shown.splitlines()
    start = next(i for i, line in enumerate(lines) if "E335" in line)
    assert sum(line.startswith("    a.jsonl:") for line in lines[start : start + 12]) == 5


def test_bad_rows_are_an_error_with_their_lines_and_exit_code_3(tmp_path: Path) -> None:
    project = desk(tmp_path, [*rows()[:20], *({"text": SECRET, "label": None} for _ in range(8))])
    out = Terminal()
    code, text = command(project, "data", "check", out=out)
    assert code == 3 and "✗ E310" in text.replace("\x1b[31m", "").replace("\x1b[0m", "")
    assert text.count(SECRET) == 5 and "less private/quarantine/desk/" in text
    code, text = command(project, "data", "check", "--json")
    assert code == 3 and SECRET not in text


def test_prepare_shows_what_each_step_did(tmp_path: Path) -> None:
    project = desk(tmp_path, rows(), steps=["clean", "deduplicate", {"kind": "balance", "ratio": 1.0}])
    code, text = command(project, "data", "prepare")
    table = [line.split() for line in text.splitlines()[:6]]
    assert code == 0 and table[0] == ["step", "before", "after", "characters"]
    assert table[1][:3] == ["read", "156", "156"]
    assert table[2][:4] == ["clean", "156", "156", "-2"] and "1 of 156 rows changed" in text
    assert table[3][:3] == ["deduplicate", "156", "152"]
    assert table[4][:2] == ["balance", "(train)"]
    assert table[5][0] == "written" and table[5][1].isdigit()
    again = json.loads(command(project, "data", "prepare", "--json")[1])
    assert [s["name"] for s in again["steps"]] == ["clean", "deduplicate", "balance"] and again["quarantined"] == 0
    assert again["steps"][1]["dropped"] == {"exact duplicate": 4}
