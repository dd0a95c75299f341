"""Peak memory of a call."""

import numpy as np
import pytest

from benchmarks import memory
from benchmarks.memory import with_peak

MIB = 2**20


def filled(mebibytes: int) -> int:
    return int(np.ones(mebibytes * MIB // 8)[-1])


def test_peak_is_what_a_call_takes_even_if_it_gives_it_back() -> None:
    answer, peak = with_peak(lambda: filled(200))
    assert answer == 1
    assert 190 * MIB < peak < 300 * MIB


@pytest.mark.skipif(not memory.set_back(), reason="the peak cannot be set back here")
def test_peak_of_a_small_call_is_small_after_a_large_one() -> None:
    with_peak(lambda: filled(200))
    assert with_peak(lambda: filled(1))[1] < 50 * MIB


def test_without_proc_the_peak_since_the_start_must_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "set_back", lambda: False)
    high = iter([100, 130, 130, 130])
    monkeypatch.setattr(memory, "highest", lambda: next(high))
    assert with_peak(lambda: "a") == ("a", 30)
    assert with_peak(lambda: "b") == ("b", 0)
