"""docs/benchmarks.md and the charts: functions of the figures alone."""

import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks.__main__ import SOUND, main
from benchmarks.figures import as_json, read_json
from benchmarks.page import page
from benchmarks.plots import plot
from benchmarks.run import Run, run_workloads
from benchmarks.workload import Target, Workload
from tests.benchmarks.stubs import Clock, broken, curve, house, raising, workload_of

MACHINE = {"sdesolve": "0.1", "torch": "2.13.0", "numba": None, "processor": "a | b", "cpus": 2, "threads": 2}
MACHINE |= {"load_average": 0.25, "date": "2030-01-02T03:04:05+00:00"}


def compared() -> Workload:
    clock = Clock()
    return workload_of(
        "one",
        clock.contender("ours", [1.0], compiled=True),
        clock.contender("theirs", [4.0], role="peer"),
        clock.contender("wrong", [1.0], answer=3.0),
        clock.contender("floor", [0.5], role="floor"),
        raising("bad", ValueError("no |x|")),
        targets=[Target("ours", "theirs", 3.0), Target("ours", "floor", 0.8), Target("ours", "absent", 2.0)],
    )


@pytest.fixture
def figures() -> dict[str, Any]:
    run = run_workloads([compared(), curve("grows", 1e-3, (1, 10, 100)), broken("broken")], 2)
    found = as_json(run, dict(MACHINE))
    # no time passed on the clock of the run
    for case in found["cases"]:
        for number, contender in enumerate(case["contenders"], 1):
            if contender["median"] is not None:
                contender["median"] = 1e-3 * number * (case["size"]["value"] if case["size"] else 1)
                contender["quartiles"] = (0.9 * contender["median"], 1.1 * contender["median"])
    for target, measured in zip(found["cases"][0]["targets"], (4.0, 0.5, None), strict=True):
        target["measured"], target["holds"] = measured, None if measured is None else measured >= target["at_least"]
    return found


def test_page_is_a_function_of_the_figures(figures: dict[str, Any]) -> None:
    assert page(figures) == page(figures)
    assert page(figures).endswith("\n") and not page(figures).endswith("\n\n")


def test_page_names_machine_versions_and_date(figures: dict[str, Any]) -> None:
    text = page(figures)
    assert "2030-01-02" in text and r"a \| b" in text and "torch 2.13.0" in text
    assert "numba" not in text.partition("## What")[0]


def test_page_says_of_each_target_whether_it_holds(figures: dict[str, Any]) -> None:
    text = page(figures)
    assert "| one: small | ours | theirs | 3x | 4x | holds |" in text
    assert "| one: small | ours | floor | 0.8x | 0.5x | does not hold |" in text
    assert "| one: small | ours | absent | 2x |  | not measured |" in text


def test_page_shows_wrong_answers_errors_and_what_could_not_be_made(figures: dict[str, Any]) -> None:
    text = page(figures)
    assert re.search(r"\| wrong \|.*\| wrong answer \|", text)
    assert "- bad: ValueError: no |x|" in text
    assert "RuntimeError: no cases" in text


def test_every_row_of_a_table_has_as_many_cells_as_its_head(figures: dict[str, Any]) -> None:
    tables = re.findall(r"(?:^\|.*\|\n)+", page(figures), re.M)
    assert len(tables) >= 4
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1


def test_sizes_of_a_group_are_rows_of_one_table(figures: dict[str, Any]) -> None:
    text = page(figures)
    assert "### all by batch" in text
    assert "| batch | ours | theirs |" in text
    assert "| 10 | 10.0 | 20.0 |" in text
    assert "### grows" not in text


def test_page_of_an_interrupted_run_says_so(figures: dict[str, Any]) -> None:
    assert "interrupted" not in page(figures)
    assert "interrupted" in page(figures | {"interrupted": True})


def test_charts_are_drawn_of_what_there_is(figures: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert [path.name for path in plot(figures, tmp_path / "all")] == ["relative.png", "scaling.png"]
    assert all((tmp_path / "all" / name).stat().st_size > 1000 for name in ("relative.png", "scaling.png"))
    only = figures | {"cases": figures["cases"][:1]}
    assert [path.name for path in plot(only, tmp_path / "one")] == ["relative.png"]
    assert plot(as_json(Run(1, []), {}), tmp_path / "none") == []


def test_old_run_is_shown_and_written_again_without_a_measurement(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, docs, again = tmp_path / "first.json", tmp_path / "first.md", tmp_path / "again.md"
    clock = Clock()
    workload = workload_of("one", clock.contender("ours", [1.0]), targets=[Target("ours", "theirs", 3.0)])
    assert main(["--repeats", "1", "--json", str(first), "--docs", str(docs)], house(workload)) == SOUND
    calls = len(clock.ran)
    capsys.readouterr()
    assert main(["--from-json", str(first), "--docs", str(again)], house(workload)) == SOUND
    assert len(clock.ran) == calls
    assert again.read_text() == docs.read_text() == page(read_json(first))
    assert "one: small" in capsys.readouterr().out


@pytest.mark.parametrize("held", [None, "{}", "not json"])
def test_old_run_that_cannot_be_read_is_told(
    held: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "old.json"
    if held is not None:
        path.write_text(held)
    with pytest.raises(SystemExit) as stop:
        main(["--from-json", str(path)])
    assert stop.value.code == 2
    assert capsys.readouterr().err


@pytest.mark.parametrize("option", ["--docs", "--plot"])
def test_place_that_cannot_be_written_is_told_before_anything_runs(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as stop:
        main([option, str(tmp_path / "file" / "below")], house(workload_of("never", raising("x", SystemError()))))
    assert stop.value.code == 2
    assert option in capsys.readouterr().err
