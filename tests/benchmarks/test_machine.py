"""What the figures depend on."""

import os

import pytest
import torch

from benchmarks import machine
from benchmarks.machine import environment, share_threads, wait_for_quiet, work_of_others


def test_all_get_as_many_threads_as_torch() -> None:
    before = torch.get_num_threads()
    try:
        share_threads(1)
        assert torch.get_num_threads() == 1
        assert os.environ["NPROC"] == os.environ["NUMBA_NUM_THREADS"] == "1"
    finally:
        torch.set_num_threads(before)


def test_package_that_is_not_installed_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "PACKAGES", ("torch", "no-such-package-at-all"))
    found = environment(torch.device("cpu"))
    assert found["torch"] == torch.__version__ and found["no-such-package-at-all"] is None
    assert found["device"] == "cpu"


def test_machine_without_a_compiler_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.shutil, "which", lambda name: None)
    assert machine.compiler() is None


def test_work_of_others_is_the_mean_number_of_processors_they_kept_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    spent, now = iter([100.0, 103.0]), iter([10.0, 12.0])
    monkeypatch.setattr(machine, "_seconds_of_others", lambda: next(spent))
    monkeypatch.setattr(machine.time, "perf_counter", lambda: next(now))
    assert work_of_others()() == 1.5


@pytest.mark.parametrize(
    ("busy", "looks", "quiet"), [([0.0], 1, True), ([1.0, 0.9, 0.05], 3, True), ([1.0] * 9, 4, False)]
)
def test_waits_until_others_are_quiet_but_not_for_ever(
    busy: list[float], looks: int, quiet: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, left = [0.0], list(busy)
    monkeypatch.setattr(machine, "work_of_others", lambda: lambda: left.pop(0))
    monkeypatch.setattr(machine.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(machine.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    assert wait_for_quiet(4 * machine.LOOK) is quiet
    assert len(busy) - len(left) == looks


def test_work_of_others_is_unknown_where_the_system_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_seconds_of_others", lambda: None)
    assert work_of_others()() is None
