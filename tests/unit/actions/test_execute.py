"""What a kill or a late signal may leave behind, and what happens before anything slow starts."""

from __future__ import annotations

import re
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from contract.recipe_probes import Desk, _NoStop
from contract.test_methods import examples, parts
from metier.actions import compiling, compose, execute, summary, train, trunk
from metier.actions import plan as plans
from metier.core import jobs
from metier.core.errors import ConfigError, DataError, MachineError
from metier.core.project import Project, read_json, write_json
from metier.core.recipe import Recipe
from metier.core.run import Run
from metier.core.sections import Training
from metier.core.types import Labelled, identify
from metier.models.probe import Choice
from metier.training import checkpoint, loop
from metier.training.feed import Feed
from metier.training.method import Facts, Method
from metier.training.validate import Watch
from tiny import labelled_rows


@pytest.fixture
def run(tmp_path: Path) -> Run:
    project = Project.create(tmp_path, "p")
    return Run.create(project.new_run_dir("sft", "x"))


def saved(run: Run, step: int) -> None:
    folder = run.checkpoints_dir / f"step-{step:06d}"
    folder.mkdir(parents=True)
    write_json(folder / "state.json", {"step": step, "figures": {"loss": 1 / step}})
    checkpoint.seal(folder)


def watched(*seen: tuple[int, float], validation: int = 1) -> Any:
    watch = Watch("loss", 3)
    for step, loss in seen:
        watch.see(step, {"loss": loss})
    return SimpleNamespace(validation=[0] * validation, watch=watch)


def test_a_kill_between_the_best_save_and_best_json_is_made_good(run: Run) -> None:
    for step in (2, 4):
        saved(run, step)
    write_json(run.dir / "best.json", {"checkpoint": "step-000002", "step": 2})
    execute._catch_up(run, watched((2, 0.5), (4, 0.25)), 4)
    best = read_json(run.dir / "best.json")
    assert (best["checkpoint"], best["step"], best["figures"], best["chosen_by"]) == (
        "step-000004", 4, {"loss": 0.25}, "loss",
    )  # fmt: skip


def test_without_validation_the_newest_save_is_the_chosen_one(run: Run) -> None:
    saved(run, 7)
    execute._catch_up(run, watched(validation=0), 7)
    assert read_json(run.dir / "best.json")["checkpoint"] == "step-000007"


def test_a_best_checkpoint_that_does_not_verify_is_never_named(run: Run) -> None:
    saved(run, 2)
    saved(run, 4)
    (run.checkpoints_dir / "step-000004" / "state.json").write_text("{}")
    write_json(run.dir / "best.json", {"checkpoint": "step-000002", "step": 2})
    execute._catch_up(run, watched((2, 0.5), (4, 0.25)), 4)
    assert read_json(run.dir / "best.json")["checkpoint"] == "step-000002"


@pytest.mark.parametrize("told_by", ["the checkpoint", "best.json"])
def test_an_evaluation_whose_line_is_lost_still_counts(run: Run, told_by: str) -> None:
    """After a power cut the best checkpoint stands, and events.jsonl may not say so (pitfall 20)."""
    for step, loss in ((4, 0.9), (6, 0.8), (8, 0.1)):
        run.event("evaluation", step=step, best=False, loss=loss)
    if told_by == "best.json":
        write_json(run.dir / "best.json", {"checkpoint": "step-000002", "step": 2, "figures": {"loss": 0.5}})
    else:
        saved(run, 2)
    saved(run, 3)
    (run.checkpoints_dir / "step-000003" / "state.json").write_text("damaged")
    assert execute._seen(run, "loss", 6) == {2: 0.5, 4: 0.9, 6: 0.8}, "step 8 is beyond what is resumed from"


def test_a_resume_leaves_the_best_checkpoint_the_best(run: Run) -> None:
    given = trained(run, {2: 0.5, 4: 0.9})
    write_json(run.dir / "best.json", {"checkpoint": "step-000002", "step": 2, "figures": {"loss": 0.5}})
    run.event("evaluation", step=4, best=False, loss=0.9)  # that of step 2 is lost
    execute._resume(run, given, loop.start(given.policy, given.plan))
    assert (given.watch.best_step, given.watch.since_best) == (2, 1)
    assert read_json(run.dir / "best.json")["checkpoint"] == "step-000002"


def trained(run: Run, losses: dict[int, float]) -> Any:
    """Parts of a run whose checkpoints say these validation losses of themselves."""
    plan = loop.Plan(steps=9, peak_learning_rate=1e-3, warmup_steps=0, micro_batch_tokens=64, training=Training())
    _, feed, policy = parts("sft", "lora", {"r": 2})
    state = loop.start(policy, plan)
    for state.step, loss in losses.items():
        checkpoint.save(run.checkpoints_dir, policy, state, digests={}, figures={"loss": loss})
    return SimpleNamespace(policy=policy, plan=plan, validation=feed, watch=Watch("loss", 3), digests={})


def test_the_temperature_lies_beside_the_choice_of_the_checkpoint_and_counts_for_no_other(run: Run) -> None:
    method, _, policy = parts("classify")
    rows = [identify(Labelled(text=r["text"], target=r["label"])) for r in labelled_rows(60)]
    feed = Feed.of(list(method.encode(rows, policy.encoder)), pad_id=1, facts=method.facts)
    plan = loop.Plan(steps=1, peak_learning_rate=1e-3, warmup_steps=0, micro_batch_tokens=512, training=Training())
    recipe = SimpleNamespace(training=Training())
    given: Any = SimpleNamespace(policy=policy, method=method, validation=feed, plan=plan, recipe=recipe)
    saved(run, 2)
    saved(run, 4)
    write_json(run.dir / "best.json", {"checkpoint": "step-000002", "step": 2})
    execute._calibrate(run, given)
    best = read_json(run.dir / "best.json")
    assert best["step"] == 2 and best["temperature"] == policy.head.temperature != 1
    assert compose.temperature_of(run.dir, run.checkpoints_dir / "step-000002") == best["temperature"]
    assert compose.temperature_of(run.dir, run.checkpoints_dir / "step-000004") == 1
    assert "no answer changes" in list(run.events("note"))[-1]["text"]
    off = Method.of("classify", {"calibrate": False}, method.facts)
    policy.head.temperature = 1.0
    execute._calibrate(run, SimpleNamespace(**{**vars(given), "method": off}))  # type: ignore[arg-type]
    assert policy.head.temperature == 1


@pytest.mark.parametrize(("before", "now", "told"), [("on", "off", 1), ("on", "on", 0), ("off", "off", 0)])
def test_a_run_that_goes_on_without_its_compiled_blocks_says_so(
    run: Run, monkeypatch: pytest.MonkeyPatch, before: str, now: str, told: int
) -> None:
    given: Any = SimpleNamespace(compiled="", choices={})
    monkeypatch.setattr(compiling, "choose", lambda *_, **__: Choice(now, f"{now} because"))
    execute._compile(run, given, {compiling.KEY: before}, 900.0)
    assert (given.compiled, given.choices) == (now, {compiling.KEY: f"{now} because"})
    notes = [event["text"] for event in run.events("note")]
    assert len(notes) == told and all(text.endswith("uninterrupted one's: off because") for text in notes)


def test_whatever_ends_the_loop_the_save_that_was_on_its_way_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desk(tmp_path)
    made = compose.compose(desk.recipe({"training.save_steps": 1, "evaluation.every_steps": 100}), desk.project())
    own = Run.create(made.project.new_run_dir("classify", "x"))
    steps, seal = loop.train, checkpoint.seal

    def one_step_and_a_bug(*args: Any, **kwargs: Any) -> Any:
        yield next(steps(*args, **kwargs))
        raise RuntimeError("a bug")

    def slow(path: Path) -> None:
        time.sleep(0.5)
        seal(path)

    monkeypatch.setattr(loop, "train", one_step_and_a_bug)
    monkeypatch.setattr(checkpoint, "seal", slow)
    with pytest.raises(RuntimeError, match="a bug"):
        execute._train(own, made, SimpleNamespace(signal=None, deferred=False, now=lambda: None), {}, 0.0)  # type: ignore[arg-type]
    found, _ = checkpoint.newest(own.checkpoints_dir)
    assert found is not None and found.name == "step-000001"


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    return Desk(tmp_path_factory.mktemp("desk"))


def begun(desk: Desk, **changes: Any) -> tuple[Run, Project]:
    """A run that waits for its worker; two epochs over a frozen trunk."""
    given = {"training.max_steps": None, "training.num_train_epochs": 2, **changes}
    project = desk.project()
    return train.create(desk.recipe(given), project), project


def kinds(run: Run) -> list[str]:
    return [event["kind"] for event in run.events()]


@pytest.mark.parametrize("adapter", ["lora", "none"], ids=["checkpoints", "a frozen part"])
def test_a_disk_without_room_for_what_the_run_writes_refuses_it_before_a_step(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, adapter: str
) -> None:
    run, project = begun(desk, adapter={"kind": adapter}, **{"training.save_total_limit": 3})
    with monkeypatch.context() as patch:
        patch.setattr(plans.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
        with pytest.raises(MachineError, match="E423") as refused:
            execute.execute(run, project, _NoStop())
    assert refused.value.received == "0.00 GB free"
    assert refused.value.fix.startswith("training.save_total_limit=1 → predicted ")
    assert "step" not in kinds(run) and not run.checkpoints_dir.exists()
    planned = read_json(run.dir / "plan.json")["disk_bytes"]
    execute.execute(run, project, _NoStop())
    assert "done" in kinds(run)
    # What lies there is not written once more: a resume of the same run is not refused for it.
    parts = compose.compose(desk.recipe({}), project)
    there = summary.disk_bytes(run.checkpoints_dir)
    predicted: Any = SimpleNamespace(fits_memory=True, fits_disk=False, disk_bytes=planned, ladder=["less"])
    monkeypatch.setattr(execute, "bytes_there", lambda _: 50)
    predicted.disk_free_bytes = planned - there - 50
    execute._fit(run, parts, predicted)
    predicted.disk_free_bytes -= 1
    with pytest.raises(MachineError, match="E423"):
        execute._fit(run, parts, predicted)


def test_what_is_kept_of_a_frozen_part_is_found_again(desk: Desk) -> None:
    recipe = desk.recipe({"adapter": {"kind": "none"}, "training.num_train_epochs": 3, "training.max_steps": None})
    parts = compose.compose(recipe, desk.project())
    assert trunk.bytes_there(parts) == 0
    written = trunk.keep(parts, lambda what, done, total: None)
    assert trunk.bytes_there(parts) >= written > 0


def test_memory_that_is_predicted_too_small_is_told_with_the_ladder_before_the_first_step(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, project = begun(desk)
    monkeypatch.setattr(plans, "available_memory_bytes", lambda device: 1_000_000_000 // 4)
    monkeypatch.setattr(execute, "release_freed_memory", lambda: False)  # a setting of this whole process
    execute.execute(run, project, _NoStop())
    told = [event for event in run.events("note") if event["code"] == "fit"]
    assert len(told) == 1
    assert re.match(
        r"predicted not to fit: 0\.\d\d of 0\.25 GB of memory; .*a smaller model\.name_or_path$", told[0]["text"]
    )
    order = [event.get("code", event["kind"]) for event in run.events()]
    assert order.index("fit") < order.index("step") and order[-1] == "done"


class Asked:
    """A request to stop that came after the last step had looked."""

    signal: int | None = signal.SIGTERM
    deferred = False

    def now(self) -> None:
        raise KeyboardInterrupt


def test_a_signal_after_the_last_step_still_stops_the_run(run: Run) -> None:
    method, feed, policy = parts("sft", "lora", {"r": 2})
    plan = loop.Plan(steps=0, peak_learning_rate=1e-3, warmup_steps=0, micro_batch_tokens=64, training=Training())
    given: Any = SimpleNamespace(policy=policy, method=method, train=feed, plan=plan, watch=Watch("loss", 0))
    with pytest.raises(KeyboardInterrupt):
        execute._train(run, given, Asked(), {}, 0.0)


def test_a_lost_worker_is_not_told_with_the_error_of_an_earlier_start(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.event("error", code="E320", what="an old story")
    run.update(state="running")
    monkeypatch.setattr(jobs, "watch", lambda run: [])
    with pytest.raises(MachineError, match="E454"):
        train.wait(run)


def test_who_waits_for_a_run_that_somebody_stopped_is_told(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run.event("step", step=3)
    run.update(state="stopped", reason="SIGTERM")
    monkeypatch.setattr(jobs, "watch", lambda run: [])
    with pytest.raises(ConfigError, match="E259") as caught:
        train.wait(run)
    assert caught.value.received == "SIGTERM after step 3"
    assert "metier runs resume 1" in caught.value.fix and "metier evaluate 1" in caught.value.fix
    run.update(state="done")
    assert train.wait(run) is run


@pytest.mark.parametrize(
    "more",
    [
        {"objective": {"targets": {"acuracy": ">= 0.9"}}},
        {"objective": {"targets": {"gain_over_base.acuracy": ">= 0.9"}}},
        {"evaluation": {"metrics": ["rogue"]}},
    ],
)
def test_a_misspelt_metric_or_target_is_refused_before_training(more: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="E210"):
        train.check_kinds(Recipe.build({"name": "x", **more}))
    train.check_kinds(Recipe.build({"name": "x", "objective": {"targets": {"gain_over_base.accuracy": ">= 0.1"}}}))


def test_an_execution_key_wins_over_what_an_earlier_start_chose() -> None:
    pinned = {"device": "cuda", "threads": "8", "dtype": "float32"}
    assert compose._choices(Recipe.build({"name": "x"}), pinned) == pinned
    changed = Recipe.build({"name": "x", "model": {"device": "cpu"}, "training": {"num_threads": 2}})
    assert compose._choices(changed, pinned) == {"threads": "2", "dtype": "float32"}


@pytest.mark.parametrize(
    ("problem_type", "figure"), [("single_label", "accuracy"), ("multi_label", "loss"), ("regression", "loss")]
)
def test_several_labels_and_numbers_are_chosen_by_their_loss(problem_type: Any, figure: str) -> None:
    facts = Facts(() if problem_type == "regression" else ("a", "b"), problem_type)
    assert compose._deciding(Method.of("classify", {}, facts)) == figure


def test_rows_of_another_problem_type_than_the_method_asks_for_are_refused() -> None:
    with pytest.raises(ConfigError, match="E268"):
        Method.of("classify", {"problem_type": "regression"}, Facts(("a", "b"), "single_label")).head()


def test_smoothing_without_use_is_refused() -> None:
    assert Method.of("classify", {"label_smoothing": 0.1}, Facts(("a", "b"), "single_label")).head()
    with pytest.raises(ConfigError, match="E269"):
        Method.of("classify", {"label_smoothing": 0.1}, Facts(("a", "b"), "multi_label")).head()


def test_a_kill_between_a_token_table_and_its_report_hides_no_cut_row(tmp_path: Path) -> None:
    project = Project.create(tmp_path, "p")
    method, _, policy = parts("sft", "lora", {"r": 2})
    policy.encoder.max_length = 36
    rows = examples("sft")
    dataset: Any = SimpleNamespace(digest="d", count=lambda split: len(rows), examples=lambda split: rows)
    _, first = compose._feed("train", project, dataset, method, policy.encoder, None)
    assert first.cut_rows
    for report in (project.cache_dir / "tokens").glob("*.json"):
        report.unlink()
    method, _, policy = parts("sft", "lora", {"r": 2})
    policy.encoder.max_length = 36
    _, again = compose._feed("train", project, dataset, method, policy.encoder, None)
    assert again.cut_rows == first.cut_rows


def test_memory_that_runs_out_outside_of_a_step_is_no_bug() -> None:
    for said in (
        "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "MPS backend out of memory (MPS allocated: 18.13 GB)",
    ):
        with pytest.raises(MachineError, match="E412"), loop.memory_errors():
            raise RuntimeError(said)
    with pytest.raises(RuntimeError, match="shapes"), loop.memory_errors():
        raise RuntimeError("shapes do not match")


def test_a_run_keeps_its_chat_template_when_the_file_is_edited(tmp_path: Path) -> None:
    project = Project.create(tmp_path, "p")
    (tmp_path / "own.jinja").write_text("{{ messages }}")
    written = Recipe.build({"name": "x", "model": {"chat_template": "own.jinja"}})
    made = train.create(written, project)
    (tmp_path / "own.jinja").unlink()
    resolved = Recipe.read(made.dir / "recipe.resolved.yaml")
    assert compose.chat_template(resolved, project) == "{{ messages }}"
    assert Recipe.read(made.dir / "recipe.yaml").model.chat_template == "own.jinja"


def test_a_resume_keeps_the_first_reason_of_a_choice_and_not_of_a_changed_one() -> None:
    now = {"dtype": "float32 because the run began with it", "device": "cpu because the recipe says so"}
    given: Any = SimpleNamespace(choices=dict(now))
    before = {"choices": {"dtype": "float32 because a probe ran faster", "device": "cpu because nothing else is here"}}
    compose.remember(given, before)
    assert given.choices == {"dtype": "float32 because a probe ran faster", "device": "cpu because the recipe says so"}
    compose.remember(given, {})  # the first start
    assert given.choices["dtype"] == "float32 because a probe ran faster"


def test_rows_that_broke_a_step_are_named_by_file_and_line() -> None:
    rows = [identify(Labelled(text=f"t{n}", target="a", place=f"a.csv:{n}")) for n in range(3)]
    dataset: Any = SimpleNamespace(iterate=lambda split: iter(rows if split == "train" else rows[:1]))
    said = f"rows {rows[2].id}, {rows[1].id} and 4 more"
    for number in (370, 371):
        with pytest.raises(DataError) as caught, execute.named_rows(dataset):
            raise DataError(number, "not finite", received=said, fix="a lower rate")
        assert (caught.value.number, caught.value.place, caught.value.fix) == (number, "a.csv:2", "a lower rate")
        assert caught.value.received == "rows a.csv:2, a.csv:1 and 4 more"
    with pytest.raises(DataError) as caught, execute.named_rows(dataset):
        raise DataError(370, "not finite", received="every loss is finite, a gradient is not", fix="a lower rate")
    assert (caught.value.place, caught.value.received) == ("", "every loss is finite, a gradient is not")
    with pytest.raises(DataError) as caught, execute.named_rows(dataset):
        raise DataError(350, "another", received=rows[0].id, fix="x")
    assert caught.value.received == rows[0].id
