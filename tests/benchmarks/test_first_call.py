"""The first call in a second process."""

import subprocess
import sys
from typing import Any

import pytest
import torch

from benchmarks import first_call
from benchmarks.first_call import in_second_process, main
from tests.benchmarks.stubs import Clock, house, workload_of


def test_only_the_named_contender_runs_and_once(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    workload = workload_of("one", clock.contender("a", [1.0]), clock.contender("b", [1.0]))
    assert main(["one", "small", "b"], house(workload)) == 0
    assert clock.ran == ["b"]
    assert float(capsys.readouterr().out) >= 0


def told(monkeypatch: pytest.MonkeyPatch, script: str) -> list[str]:
    """Run the script in place of the command; returns the list that will hold its arguments."""
    arguments: list[str] = []
    real = subprocess.run

    def run(command: list[str], **options: Any) -> Any:
        arguments.extend(command[3:])
        return real([sys.executable, "-c", script], **options)

    monkeypatch.setattr(first_call.subprocess, "run", run)
    return arguments


def test_second_process_gets_names_device_and_threads_and_its_last_word_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = told(monkeypatch, "print('compiling'); print(2.5)")
    assert in_second_process("gbm", "a case", "ours, compiled", "cpu") == 2.5
    threads = str(torch.get_num_threads())
    assert arguments == ["gbm", "a case", "ours, compiled", "--device", "cpu", "--threads", threads]


def test_second_process_that_fails_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    told(monkeypatch, "raise KeyError('no such case')")
    with pytest.raises(RuntimeError, match="KeyError: 'no such case'"):
        in_second_process("gbm", "a case", "ours", "cpu")
