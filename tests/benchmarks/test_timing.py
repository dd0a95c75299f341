"""Turns, medians, quartiles, ratios, and what becomes of contenders that fail."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.timing import Measurement, fastest, measure, quartiles, ratio
from benchmarks.workload import Contender
from tests.benchmarks.stubs import Clock, case_of, raising

times = st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=30)


def measured(*contenders: Contender, repeats: int = 3, clock: Clock | None = None) -> list[Measurement]:
    found: list[Measurement] = []
    measure(case_of(*contenders), found, repeats, clock=clock or Clock())
    return found


def known(role: str, seconds: list[float], error: float | None = 0.0) -> Measurement:
    contender = Contender(role, role, lambda: None)  # type: ignore[arg-type]
    return Measurement(contender, tolerance=0.1, first=1.0, seconds=seconds, error=error)


def test_all_warm_up_twice_and_then_take_turns() -> None:
    clock = Clock()
    a, b, c = (clock.contender(name, [1.0]) for name in "abc")
    measured(a, b, c, repeats=3, clock=clock)
    assert "".join(clock.ran) == "aabbcc" + "abc" * 3


def test_turns_are_announced_before_they_are_taken() -> None:
    clock = Clock()
    told: list[tuple[str, int, int]] = []
    pair = case_of(clock.contender("a", [1.0]), clock.contender("b", [1.0]))
    measure(pair, [], 2, lambda contender, turn: told.append((contender.name, turn, len(clock.ran))), clock)
    assert told == [("a", 0, 0), ("b", 0, 2), ("a", 1, 4), ("b", 1, 5), ("a", 2, 6), ("b", 2, 7)]


def test_first_call_is_kept_apart_and_the_second_is_not_counted() -> None:
    clock = Clock()
    (found,) = measured(clock.contender("a", [100.0, 7.0, 1.0, 3.0, 2.0]), repeats=3, clock=clock)
    assert found.first == 100.0
    assert found.seconds == [1.0, 3.0, 2.0]
    assert found.median == 2.0


def test_fast_contender_is_called_in_a_row_and_its_time_is_of_one_call() -> None:
    clock = Clock()
    (found,) = measured(clock.contender("a", [2**-10]), repeats=2, clock=clock)
    assert found.calls == math.ceil(0.02 * 2**10)
    assert len(clock.ran) == 2 + 2 * found.calls
    assert found.seconds == [2**-10, 2**-10]


def test_garbage_of_the_one_before_is_collected_before_the_clock_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()

    def collect() -> int:
        clock.ran.append("collected")
        clock.now += 1000.0
        return 0

    monkeypatch.setattr("benchmarks.timing.gc.collect", collect)
    (found,) = measured(clock.contender("a", [1.0]), repeats=2, clock=clock)
    assert clock.ran == ["collected", "a"] * 4
    assert found.seconds == [1.0, 1.0]


def test_a_clock_that_does_not_move_gives_no_endless_row() -> None:
    clock = Clock()
    (found,) = measured(clock.contender("a", [0.0]), repeats=1, clock=clock)
    assert found.calls == 1000


def test_quartiles_of_five_numbers_are_the_second_and_the_fourth() -> None:
    assert quartiles([5.0, 1.0, 4.0, 2.0, 3.0]) == (2.0, 4.0)
    assert quartiles([7.0]) == (7.0, 7.0)


@given(times)
def test_quartiles_hold_the_median_between_them(seconds: list[float]) -> None:
    found = known("ours", seconds)
    assert found.median is not None and found.quartiles is not None
    low, high = found.quartiles
    slack = 1e-12 * max(seconds)
    assert min(seconds) - slack <= low <= found.median + slack
    assert found.median - slack <= high <= max(seconds) + slack


def test_ratio_is_that_of_the_medians_whatever_the_outliers() -> None:
    assert ratio(known("peer", [6.0, 6.0, 900.0]), known("ours", [2.0, 0.1, 2.0])) == 3.0


def test_a_fast_wrong_answer_wins_nothing() -> None:
    wrong, right, slow = known("peer", [0.1], error=0.2), known("peer", [1.0]), known("peer", [3.0])
    assert wrong.status == "wrong answer"
    assert fastest([wrong, slow, right], "peer") is right
    assert fastest([wrong], "peer") is None
    assert ratio(right, wrong) is None
    assert ratio(None, right) is None


@pytest.mark.parametrize("answers", [(1.0, 9.0), (9.0, 1.0), (1.0, math.nan), (math.nan, 1.0)])
def test_both_answers_of_the_warm_up_are_looked_at(answers: tuple[float, float]) -> None:
    left = list(answers)
    (found,) = measured(Contender("a", "ours", lambda: left.pop(0) if left else 1.0), repeats=1)
    assert found.status == "wrong answer"


def test_answer_of_a_floor_is_not_looked_at() -> None:
    (found,) = measured(Clock().contender("a", [1.0], role="floor", answer=9.0))
    assert (found.status, found.error) == ("measured", None)


def test_peer_that_is_not_installed_is_no_error_and_does_not_run() -> None:
    clock = Clock()
    peer, ours = measured(
        clock.contender("peer", [1.0], role="peer", needs="no_such_package_at_all"),
        clock.contender("ours", [1.0]),
        clock=clock,
    )
    assert (peer.status, peer.seconds, peer.raised) == ("not installed", [], None)
    assert ours.status == "measured"
    assert "peer" not in clock.ran


@pytest.mark.parametrize("after", [0, 1, 3])
def test_contender_that_raises_leaves_the_others_standing(after: int) -> None:
    clock = Clock()
    bad, good = measured(
        raising("bad", ValueError("no such\nthing"), after), clock.contender("good", [1.0]), clock=clock
    )
    assert (bad.status, bad.raised) == ("error", "ValueError: no such")
    assert ratio(bad, good) is None
    assert len(good.seconds) == 3


def test_interrupt_leaves_the_turns_that_were_finished() -> None:
    found: list[Measurement] = []
    clock = Clock()
    pair = case_of(clock.contender("a", [1.0]), raising("b", KeyboardInterrupt(), after=2 + 1000))
    with pytest.raises(KeyboardInterrupt):
        measure(pair, found, 5, clock=clock)
    assert [len(m.seconds) for m in found] == [2, 1]
