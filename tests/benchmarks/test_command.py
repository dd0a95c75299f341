"""The command line: its arguments, exit status, table, and a file that is written whatever happens."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.__main__ import INTERRUPTED, SOUND, UNSOUND, main
from benchmarks.machine import is_busy
from benchmarks.workloads import WORKLOADS
from tests.benchmarks.stubs import Clock, broken, house, raising, workload_of

CLOCK = Clock()
ROOT = Path(__file__).resolve().parents[2]


def contender(name: str, **options: Any) -> Any:
    # no time passes on the clock of the command, so costs are of no concern here
    return CLOCK.contender(name, [1.0], **options)


def good(name: str = "good") -> Any:
    return workload_of(
        name,
        contender("ours"),
        contender("theirs", role="peer"),
        contender("absent", role="peer", needs="no_such_package_at_all"),
        contender("floor", role="floor"),
    )


def written(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_list_names_every_workload(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == SOUND
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(WORKLOADS)
    names = "gbm lorenz neural_ode neural_sde neural_sde_gradients likelihood adaptive_sde sde scaling gradients"
    assert names.split() == list(WORKLOADS)


@pytest.mark.parametrize("only", ["nonsense", "gbm,nonsense", ","])
def test_unknown_workload_is_an_error_that_lists_the_accepted_ones(
    only: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--only", only])
    assert stop.value.code == 2
    text = capsys.readouterr().err
    assert "--only" in text
    assert all(name in text for name in WORKLOADS)


@pytest.mark.parametrize("option", ["--repeats", "--threads"])
@pytest.mark.parametrize("value", ["0", "-1", "many"])
def test_numbers_of_the_command_line_are_whole_and_positive(
    option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main([option, value])
    assert stop.value.code == 2
    assert value in capsys.readouterr().err


def test_file_that_cannot_be_written_is_told_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--json", str(tmp_path)], house(workload_of("never", raising("never", SystemError()))))
    assert stop.value.code == 2
    assert "--json" in capsys.readouterr().err


def test_sound_run_exits_with_zero_and_writes_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "new" / "figures.json"
    assert main(["--repeats", "3", "--json", str(path)], house(good("one"), good("two"))) == SOUND
    data = written(path)
    assert data.keys() == {"schema", "settings", "environment", "interrupted", "cases"}
    assert data["schema"] == 3
    assert data["settings"] == {"repeats": 3, "workloads": ["one", "two"]}
    assert {"torch", "torchsde", "torchdiffeq", "python", "processor", "threads", "date"} <= data["environment"].keys()
    assert [case["workload"] for case in data["cases"]] == ["one", "two"]
    case = data["cases"][0]
    assert case["agreement"] == {"measure": "distance from 1", "tolerance": 0.1}
    assert case["best_peer"] == "theirs"
    ours, theirs, absent, floor = case["contenders"]
    assert ours.keys() == {
        "name", "role", "status", "raised", "compiled", "evaluations", "order", "first_seconds",
        "second_process_seconds", "peak_bytes",
        "calls", "seconds", "median", "quartiles", "times_as_fast_as_best_peer", "times_floor", "error",
    }  # fmt: skip
    assert [c["status"] for c in case["contenders"]] == ["measured", "measured", "not installed", "measured"]
    assert all(len(c["seconds"]) == 3 and len(c["quartiles"]) == 2 for c in (ours, theirs, floor))
    assert ours["times_as_fast_as_best_peer"] == pytest.approx(theirs["median"] / ours["median"])
    assert ours["times_floor"] == pytest.approx(ours["median"] / floor["median"])
    assert theirs["times_as_fast_as_best_peer"] == 1.0
    assert (absent["median"], absent["quartiles"], absent["times_floor"]) == (None, None, None)
    assert (floor["error"], floor["times_floor"]) == (None, None)
    shown = capsys.readouterr().out
    assert "one: small" in shown and "not installed" in shown and "distance from 1" in shown
    assert str(path.name) in shown


def test_only_runs_the_named_workloads(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    assert main(["--only", "two", "--repeats", "1", "--json", str(path)], house(broken("one"), good("two"))) == SOUND
    assert [case["workload"] for case in written(path)["cases"]] == ["two"]


def test_what_raises_shows_its_error_and_the_run_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "figures.json"
    bad = workload_of("bad", raising("ours", RuntimeError("the drift is [broken]")), contender("theirs", role="peer"))
    assert main(["--repeats", "1", "--json", str(path)], house(broken("one"), bad, good("two"))) == UNSOUND
    first, second, third = written(path)["cases"]
    assert (first["raised"], first["contenders"]) == ("RuntimeError: no cases", [])
    assert [c["status"] for c in second["contenders"]] == ["error", "measured"]
    assert third["best_peer"] == "theirs"
    shown = capsys.readouterr().out
    assert "no cases" in shown and "the drift is [broken]" in shown


@pytest.mark.parametrize("answer", [2.0, float("nan")])
def test_wrong_answer_exits_with_one_and_has_no_ratio(answer: float, tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    wrong = workload_of("wrong", contender("ours", answer=answer), contender("theirs", role="peer"))
    assert main(["--repeats", "1", "--json", str(path)], house(wrong)) == UNSOUND
    ours, theirs = written(path)["cases"][0]["contenders"]
    assert (ours["status"], ours["times_as_fast_as_best_peer"]) == ("wrong answer", None)
    assert theirs["status"] == "measured"


def test_interrupt_leaves_the_figures_of_what_was_finished(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    stopping = workload_of("stopping", contender("ours"), raising("stop", KeyboardInterrupt()))
    status = main(["--repeats", "1", "--json", str(path)], house(good("one"), stopping, good("never")))
    assert status == INTERRUPTED
    data = written(path)
    assert data["interrupted"]
    assert [case["workload"] for case in data["cases"]] == ["one", "stopping"]
    assert [c["status"] for c in data["cases"][0]["contenders"]][:2] == ["measured", "measured"]
    assert [c["status"] for c in data["cases"][1]["contenders"]] == ["not finished", "not finished"]


def test_machine_is_busy_when_others_use_more_than_half_of_it() -> None:
    assert is_busy(1.5, 2)
    assert not is_busy(1.0, 2)
    assert not is_busy(None, 2) and not is_busy(1.0, None)


def test_wheel_does_not_hold_the_benchmarks() -> None:
    assert 'packages = ["sdesolve", "diffusion"]' in (ROOT / "pyproject.toml").read_text()
