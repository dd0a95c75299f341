"""The command line: its arguments, exit status, and reports that are written whatever happens."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from validation.__main__ import FAILED, INTERRUPTED, PASSED
from validation.__main__ import main as command
from validation.check import Case, Check, Curve, Section, Settings, bounded
from validation.sections import SECTIONS


def main(arguments: list[str], sections: dict[str, Section] = SECTIONS) -> int:
    """In this process."""
    return command([*arguments, "--jobs", "1"], sections)


def good() -> list[Check]:
    curve = Curve("figure", "line", [0.1, 0.2, 0.4], [1.0, 2.0, 4.0], [0.9, 1.9, 3.9], [1.1, 2.1, 4.1])
    return [
        Check("one", "good", "a <good> check", 1.0, "within 0.1", 1.01, (0.99, 1.03), True, {"n": 3}, (curve,)),
        bounded("one", "small", "a small error", 1e-9, 1e-6),
    ]


def bad() -> list[Check]:
    return [bounded("one", "bad", "a large error", float("nan"), 1e-6)]


def raising() -> Iterable[Check]:
    yield bounded("one", "before", "finished before the exception", 0.0, 1.0)
    raise RuntimeError("the drift is <broken>")


def interrupting() -> list[Check]:
    raise KeyboardInterrupt


def house(*runs: Callable[[], Iterable[Check]]) -> dict[str, Section]:
    one = Section("one", "the first", lambda settings: [Case(run.__name__, run) for run in runs])
    two = Section("two", "the second", lambda settings: [Case("good", lambda: [bounded("two", "x", "y", 0.0, 1.0)])])
    return {"one": one, "two": two}


def report(directory: Path) -> tuple[dict, str]:
    return json.loads((directory / "report.json").read_text()), (directory / "report.html").read_text()


def test_list_names_every_section(capsys: pytest.CaptureFixture) -> None:
    assert main(["--list"]) == PASSED
    lines = capsys.readouterr().out.splitlines()
    assert (
        [line.split()[0] for line in lines]
        == list(SECTIONS)
        == ["ode", "sde", "ito", "brownian", "diffusion", "training"]
    )


@pytest.mark.parametrize("only", ["nonsense", "ode,nonsense", ","])
def test_unknown_section_is_an_error_that_lists_the_accepted_ones(only: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--only", only])
    assert stop.value.code == 2
    text = capsys.readouterr().err
    assert "--only" in text
    assert all(name in text for name in SECTIONS)


def test_a_folder_that_cannot_be_is_an_error_before_anything_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    mine, measured = tmp_path / "mine", []
    mine.write_text("text")
    for path in (mine, mine / "reports"):
        with pytest.raises(SystemExit) as stop:
            main(["--output", str(path)], house(lambda: measured.append(1) or good()))
        assert stop.value.code == 2
        assert f"--output: got {path}" in capsys.readouterr().err
    assert not measured
    assert mine.read_text() == "text"


def test_passing_run_exits_with_zero_and_writes_both_reports(tmp_path: Path) -> None:
    assert main(["--output", str(tmp_path / "new" / "folder"), "--seed", "7"], house(good)) == PASSED
    data, page = report(tmp_path / "new" / "folder")
    assert data["summary"] == {"passed": True, "checks": 3, "failed": 0, "interrupted": False}
    assert data["settings"] == {"quick": False, "seed": 7, "sections": ["one", "two"]}
    first = data["checks"][0]
    assert {"name", "section", "expected", "measured", "interval", "pass", "details"} <= first.keys()
    assert (first["measured"], first["interval"], first["pass"], first["details"]) == (
        1.01,
        [0.99, 1.03],
        True,
        {"n": 3},
    )
    assert {"torch", "numpy", "python", "sdesolve"} <= data["environment"].keys()
    assert [case["case"] for case in data["timings"]["cases"]] == ["good", "good"]
    assert "a &lt;good&gt; check" in page
    assert "data:image/svg+xml;base64," in page
    assert "http://" not in page and "https://" not in page  # self-contained


def test_only_runs_the_named_sections(tmp_path: Path) -> None:
    assert main(["--only", "two", "--output", str(tmp_path)], house(bad)) == PASSED
    assert [check["section"] for check in report(tmp_path)[0]["checks"]] == ["two"]


def test_failed_check_exits_with_one_and_not_a_number_is_written(tmp_path: Path) -> None:
    assert main(["--output", str(tmp_path)], house(good, bad)) == FAILED
    data, page = report(tmp_path)
    assert data["summary"]["failed"] == 1
    assert data["checks"][2]["measured"] == "nan"
    assert "What failed" in page


def test_exception_leaves_the_other_checks_and_both_reports(tmp_path: Path) -> None:
    assert main(["--output", str(tmp_path)], house(raising, good)) == FAILED
    data, page = report(tmp_path)
    assert [check["pass"] for check in data["checks"]] == [True, False, True, True, True]
    assert "RuntimeError: the drift is <broken>" in data["checks"][1]["error"]
    assert "the drift is &lt;broken&gt;" in page


def test_exception_while_cases_are_listed_is_a_failed_check(tmp_path: Path) -> None:
    def broken(settings: Settings) -> list[Case]:
        raise RuntimeError("no cases")

    sections = {**house(good), "three": Section("three", "broken", broken)}
    assert main(["--output", str(tmp_path)], sections) == FAILED
    assert report(tmp_path)[0]["summary"] == {"passed": False, "checks": 4, "failed": 1, "interrupted": False}


def test_interrupt_leaves_reports_of_what_was_finished(tmp_path: Path) -> None:
    assert main(["--output", str(tmp_path)], house(good, interrupting)) == INTERRUPTED
    data, page = report(tmp_path)
    assert data["summary"] == {"passed": False, "checks": 2, "failed": 0, "interrupted": True}
    assert "interrupted" in page


def test_checks_are_the_same_in_two_runs_with_one_seed_whatever_the_number_of_processes(tmp_path: Path) -> None:
    for folder, jobs in (("a", "1"), ("b", "2")):
        command(["--only", "brownian", "--quick", "--output", str(tmp_path / folder), "--jobs", jobs])
    assert report(tmp_path / "a")[0]["checks"] == report(tmp_path / "b")[0]["checks"]


def test_seed_of_a_case_does_not_depend_on_the_others() -> None:
    assert Settings(seed=3).seed_of("x") == Settings(quick=True, seed=3).seed_of("x")
    assert len({Settings(seed=s).seed_of(n) for s in range(50) for n in "abc"}) == 150
