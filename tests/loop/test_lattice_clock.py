"""The integer clock of adaptive steps along a path: what it visits, whatever is accepted and rejected."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sdesolve.brownian.window import window_of_seed
from sdesolve.clock import Landings
from sdesolve.lattice_clock import LatticeClock, PathNoise

F64 = torch.float64


def clock_over(ts, lanes=1, dtype=F64):
    window = window_of_seed(0, torch.arange(lanes), (1,), (min(ts), max(ts)), dtype, None)
    noise = PathNoise(window, lambda times: np.rint(times / window.tick).astype(np.int64))
    return LatticeClock.of(Landings.merge(np.array(ts)[:, None], ()), lanes, dtype, torch.device("cpu"), noise)


def drive(clock, choose):
    """Steps of one lane until it has finished: `choose(k)` gives the step that is wanted and whether it is accepted.
    Returns (start, end, t0, t1, h, wanted, accepted, landing) of each."""
    state, found, yes = clock.start(), [], torch.tensor([True])
    while not clock.finished(state):
        wanted, accept = choose(len(found))
        h = torch.maximum(torch.tensor([wanted], dtype=F64), clock.least_step(state))
        p = clock.propose(state, h, yes)
        start, end, _ = (x.item() for x in p.ticket)
        # a step that can be cut no more is accepted, as a solve would give up there
        accept = accept or bool(p.h <= 4 * clock.least_step(state))
        found.append((start, end, p.t0.item(), p.t1.item(), p.h.item(), h.item(), accept, p.landing.item()))
        state = clock.advance(state, p, torch.tensor([accept]))
        assert len(found) < 5000
    return found


wishes = st.lists(st.tuples(st.floats(1e-4, 2.0), st.booleans()), min_size=1, max_size=60)
times = st.sampled_from([[0.0, 1.0], [0.0, 0.1, 1 / 3, 1.0], [-0.7, 0.2, 0.9], [1.0, 0.3, 0.0], [1e4, 1e4 + 0.37]])


@settings(max_examples=200)
@given(wishes, times)
def test_every_time_that_was_looked_at_is_visited(wishes, ts):
    """No-skip: the end of every rejected step is the end of an accepted one (Foster & Jelincic 2311.14201)."""
    steps = drive(clock_over(ts), lambda k: wishes[k] if k < len(wishes) else (0.3, True))
    visited = {end for _, end, *_, accepted, _ in steps if accepted}
    assert {end for _, end, *_ in steps} <= visited


@settings(max_examples=200)
@given(wishes, times)
def test_accepted_steps_tile_the_span_and_land_on_every_output(wishes, ts):
    clock = clock_over(ts)
    steps = [s for s in drive(clock, lambda k: wishes[k] if k < len(wishes) else (0.3, True)) if s[6]]
    sign = 1 if ts[-1] > ts[0] else -1
    landed = [round(t / clock.tick.item()) for t in ts]
    assert steps[0][0] == landed[0] and steps[-1][1] == landed[-1]
    assert all(sign * (end - start) > 0 for start, end, *_ in steps)
    assert all(a[1] == b[0] for a, b in pairwise(steps))
    assert [s[3] for s in steps if s[7]] == ts[1:] and {s[1] for s in steps} >= set(landed[1:])
    # times and lengths are those of the ticks, to the rounding of a tick at outputs
    for start, end, t0, t1, h, *_ in steps:
        assert (
            abs(t0 - start * clock.tick.item()) <= clock.tick.item()
            and abs(t1 - end * clock.tick.item()) <= clock.tick.item()
        )
        assert h == pytest.approx(abs(end - start) * clock.tick.item(), abs=2 * clock.tick.item())
    assert sum(s[4] for s in steps) == pytest.approx(abs(ts[-1] - ts[0]), rel=1e-12)


@settings(max_examples=200)
@given(wishes, times)
def test_a_step_is_about_as_long_as_was_wanted_and_a_retry_is_shorter(wishes, ts):
    clock = clock_over(ts)
    steps = drive(clock, lambda k: wishes[k] if k < len(wishes) else (0.3, True))
    for before, after in pairwise(steps):
        if not before[6]:
            assert after[0] == before[0] and abs(after[1] - after[0]) <= 0.56 * abs(before[1] - before[0]) + 1
    assert all(h <= 1.25 * wanted + 16 * clock.tick.item() for *_, h, wanted, _, _ in steps)


@given(st.floats(1e-3, 0.9))
def test_steps_that_are_not_cut_are_at_least_seven_eighths_of_what_was_wanted(wanted):
    (first, *_) = drive(clock_over([0.0, 1.9]), lambda k: (wanted, True))
    assert 0.875 * wanted <= first[4] <= wanted * (1 + 1e-6)


@given(st.integers(3, 12))
def test_free_steps_end_on_coarse_ticks_so_that_bridges_to_them_have_few_levels(power):
    clock = clock_over([0.0, 1 / 3])  # the window's cells have length 1/2
    steps = drive(clock, lambda k: (2.0**-power * 0.77, True))
    for start, end, *_, landing in steps:
        if not landing and end - start > 64:
            low = end & -end
            assert low >= (end - start) / 16


def test_outputs_closer_than_the_lattice_are_refused():
    with pytest.raises(
        ValueError, match=r"ts: got times 0.5 and 0.5000000001; accepted is times at least 3.73e-09 apart"
    ):
        clock_over([0.0, 0.5, 0.5 + 1e-10, 2.0])


def test_a_lane_that_rests_stays_where_it_is():
    clock = clock_over([0.0, 1.0], lanes=3)
    state = clock.start()
    h, active = torch.full((3,), 0.1, dtype=F64), torch.tensor([True, False, True])
    p = clock.propose(state, h, active)
    after = clock.advance(state, p, torch.tensor([True, False, False]))
    assert p.h[1] == 0 and p.ticket[0][1] == p.ticket[1][1] and p.t0[1] == p.t1[1]
    assert [x[1].item() for x in after] == [x[1].item() for x in state]
    assert after[1].tolist() == [p.ticket[1][0].item(), 0, 0]
    assert after[2].tolist() == [0, 0, p.ticket[1][2].item()], "the rejected interval is a root"
