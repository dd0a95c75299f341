"""A run as data: targets with what was measured of them, and files that are read again."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.figures import SCHEMA, as_json, caption, read_json, slowest_first, target_figures, write_json
from benchmarks.run import Run, run_workloads
from benchmarks.timing import Measurement
from benchmarks.workload import Contender, Role, Target
from tests.benchmarks.stubs import Clock, raising, workload_of


def known(name: str, seconds: float | None, role: Role = "ours", error: float | None = 0.0) -> Measurement:
    contender = Contender(name, role, lambda: None)
    return Measurement(contender, 0.1, seconds=[] if seconds is None else [seconds], error=error)


@pytest.mark.parametrize(("at_least", "holds"), [(3.9, True), (4.0, True), (4.1, False)])
def test_target_holds_when_the_other_takes_at_least_so_many_times_as_long(at_least: float, holds: bool) -> None:
    found = [known("ours", 1.0), known("theirs", 4.0, "peer")]
    judged = target_figures(Target("ours", "theirs", at_least), found)
    assert (judged["measured"], judged["holds"]) == (4.0, holds)


def test_of_several_names_the_fastest_counts_on_either_side() -> None:
    found = [known("a", 3.0), known("b", 2.0), known("c", 8.0, "peer"), known("d", 6.0, "peer")]
    judged = target_figures(Target(("a", "b"), ("c", "d"), 1.0), found)
    assert (judged["contender"], judged["against"], judged["measured"]) == ("b", "d", 3.0)


def test_target_against_a_floor_bounds_what_is_spent_above_it() -> None:
    found = [known("ours", 1.3), known("network", 1.0, "floor", error=None)]
    assert target_figures(Target("ours", "network", 1 / 1.3), found)["holds"]
    assert not target_figures(Target("ours", "network", 1 / 1.2), found)["holds"]


@pytest.mark.parametrize("ours", [known("ours", None), known("ours", 1.0, error=0.2), known("another", 1.0)])
def test_target_is_not_measured_where_an_answer_is_wrong_or_missing(ours: Measurement) -> None:
    judged = target_figures(Target("ours", "theirs", 2.0), [ours, known("theirs", 4.0, "peer")])
    assert (judged["contender"], judged["measured"], judged["holds"]) == ("ours", None, None)


def test_slowest_first_call_is_that_of_what_we_compile() -> None:
    clock = Clock()
    contenders = [
        clock.contender("quick", [2.0], compiled=True),
        clock.contender("slow", [1.0], compiled=True),
        clock.contender("eager", [9.0]),
        clock.contender("theirs", [9.0], role="peer", compiled=True),
    ]
    figures = ran(*contenders)
    for contender, first in zip(figures["cases"][0]["contenders"], (2.0, 5.0, 9.0, 9.0), strict=True):
        contender["first_seconds"] = first
    assert slowest_first(figures, "first_seconds") == (5.0, "one: small, slow")
    assert slowest_first(figures, "second_process_seconds") is None


def ran(*contenders: Contender, **options: Any) -> dict[str, Any]:
    return as_json(run_workloads([workload_of("one", *contenders, **options)], 1), {})


def test_first_calls_in_a_second_process_are_asked_for_where_we_compile_and_kept_apart() -> None:
    clock, asked = Clock(), []

    def second(*names: str) -> float:
        asked.append(names)
        return 3.5

    good, eager = clock.contender("good", [1.0], compiled=True), clock.contender("eager", [1.0])
    bad = raising("bad", ValueError("no"))
    run = run_workloads([workload_of("one", good, eager, bad)], 1, second_process=second)
    assert asked == [("one", "small", "good", "cpu")]
    assert [m.second_process for m in run.records[0].measurements] == [3.5, None, None]


def test_what_fails_in_a_second_process_leaves_its_times_but_is_told() -> None:
    def second(*names: str) -> float:
        raise RuntimeError("no such compiler")

    run = run_workloads([workload_of("one", Clock().contender("ours", [1.0], compiled=True))], 1, second_process=second)
    (ours,) = as_json(run, {})["cases"][0]["contenders"]
    assert not run.sound
    assert (ours["status"], ours["raised"]) == ("measured", "RuntimeError: no such compiler")
    assert ours["median"] is not None


def test_contender_of_few_turns_takes_no_more() -> None:
    run = run_workloads([workload_of("one", Clock().contender("a", [1.0], turns=2), Clock().contender("b", [1.0]))], 4)
    assert [len(m.seconds) for m in run.records[0].measurements] == [2, 4]


def test_program_that_is_not_there_is_no_error() -> None:
    (found,) = ran(Clock().contender("native", [1.0], role="hand", program="no-such-compiler"))["cases"][0][
        "contenders"
    ]
    assert (found["status"], found["raised"]) == ("not installed", None)


def test_hand_written_loops_are_judged_but_are_not_the_best_peer() -> None:
    clock = Clock()
    hand = clock.contender("hand", [1.0], role="hand")
    wrong = clock.contender("wrong", [1.0], role="hand", answer=2.0)
    (case,) = ran(hand, wrong, clock.contender("theirs", [4.0], role="peer"))["cases"]
    assert case["best_peer"] == "theirs"
    assert [c["status"] for c in case["contenders"]] == ["measured", "wrong answer", "measured"]


def test_figures_are_the_same_after_a_file(tmp_path: Path) -> None:
    figures = ran(Clock().contender("ours", [1.0]), targets=[Target("ours", "theirs", 2.0)])
    write_json(figures, tmp_path / "figures.json")
    assert read_json(tmp_path / "figures.json") == json.loads(json.dumps(figures))


@pytest.mark.parametrize("held", [{"schema": SCHEMA - 1}, {}, []])
def test_file_of_another_schema_is_refused(held: Any, tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    path.write_text(json.dumps(held))
    with pytest.raises(ValueError, match=f"accepted is schema {SCHEMA}"):
        read_json(path)


@pytest.mark.parametrize(("others", "told"), [(None, False), (0.0, False), (0.8, True)])
def test_case_says_so_when_others_took_part_of_the_machine(others: float | None, told: bool) -> None:
    (case,) = ran(Clock().contender("ours", [1.0]))["cases"]
    assert ("others kept" in caption(case | {"processors_of_others": others})) is told


def test_empty_run_is_data_too() -> None:
    assert as_json(Run(1, []), {})["cases"] == []


def test_file_that_is_no_json_is_named(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    path.write_text("not a run")
    with pytest.raises(ValueError, match=r"--from-json: .*figures.json is no JSON"):
        read_json(path)
