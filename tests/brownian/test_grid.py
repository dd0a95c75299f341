import math

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from sdesolve.brownian.grid import step_cells

DT = st.floats(1e-6, 1e6)


def names(starts, steps, dt):
    cells, ticks, regular = step_cells(starts, steps, dt)
    return list(zip(cells.tolist(), ticks.tolist(), regular.tolist(), strict=True))


@given(DT, st.integers(-(2**33), 2**33 - 1000), st.integers(1, 50))
def test_steps_on_the_grid_are_their_cells(dt, first, count):
    index = np.arange(first, first + count)
    cells, ticks, regular = step_cells(index * dt, np.full(count, dt), dt)
    assert cells.tolist() == index.tolist() and not ticks.any() and regular.all()
    assert cells.dtype == ticks.dtype == np.int64 and regular.dtype == np.bool_


@given(DT, st.integers(-(2**20), 2**20), st.floats(-0.9, 0.9), st.floats(-0.9, 0.9))
def test_steps_within_a_thousandth_of_the_grid_are_regular(dt, cell, shift, stretch):
    start, step = (cell + shift * 2.0**-10) * dt, (1 + stretch * 2.0**-10) * dt
    assert names([start], [step], dt) == [(cell, 0, True)]


@pytest.mark.parametrize(
    ("start", "step", "expected"),
    [
        (0.5, 1.0, (0, 2**31, False)),
        (-0.25, 1.0, (-1, 3 * 2**30, False)),
        (3.0, 0.5, (3, 0, False)),
        (3.0, 2.0, (3, 0, False)),
        (3.0 + 2.0**-9, 1.0, (3, 2**23, False)),
        (1e-15, 0.5, (0, 0, False)),
        (
            -1e-15,
            0.5,
            (0, 0, False),
        ),  # one less than a cell's last tick is the next cell's tick 0, not tick 2^32
        (-(2.0**-32), 0.5, (-1, 2**32 - 1, False)),
        (5 - 2.0**-34, 0.5, (5, 0, False)),
        (-(2.0**31), 0.5, (-(2**31), 0, False)),
        (2.0**31 - 0.5, 0.5, (2**31 - 1, 2**31, False)),
        (-(2.0**33), 1.0, (-(2**33), 0, True)),
        (2.0**33 - 1, 1.0, (2**33 - 1, 0, True)),
    ],
)
def test_off_grid_steps_are_named_by_cell_and_tick(start, step, expected):
    assert names([start], [step], 1.0) == [expected]
    assert names([start * 0.125], [step * 0.125], 0.125) == [expected]


STEP = st.one_of(
    st.just(1.0),
    st.floats(1 - 2.0**-10, 1 + 2.0**-10),
    st.floats(2.0**-30, 3.0),
    st.integers(1, 2**12).map(lambda n: n * 2.0**-12),
)


@example(1.0, -1.0, [0.5, 0.5, 1.0, 1.0])
@example(0.3, 0.0, [2.0**-31] * 9)
@given(DT, st.floats(-1000, 1000), st.lists(STEP, min_size=2, max_size=40))
def test_steps_of_a_solve_never_share_a_name(dt, first, lengths):
    times = np.cumsum([first, *lengths]) * dt
    starts, steps = times[:-1], np.diff(times)
    assume((steps > (2.0**-32 + 2.0**-51 * np.abs(times / dt).max()) * dt).all())
    assert len(set(names(starts, steps, dt))) == len(steps)


@given(st.integers(-(10**6), 10**6), st.integers(1, 2000), st.sampled_from([0.1, 1 / 3, 0.01, 2.0**-7]))
def test_names_survive_the_rounding_of_their_times(numerator, denominator, dt):
    s = numerator / denominator
    assume(abs((s * 2**32) % 1 - 0.5) > 1e-3 + 2.0**-19 * abs(s))
    starts = np.array([s * dt])
    expected = names(starts, [dt / 2], dt)
    for direction in (-math.inf, math.inf):
        moved = np.nextafter(np.nextafter(starts, direction), direction)
        assert names(moved, [dt / 2], dt) == expected


@given(st.lists(st.floats(0.01, 2.0), min_size=1, max_size=12), st.floats(-5, 5))
def test_names_do_not_depend_on_the_other_steps_or_the_shape(lengths, first):
    starts = first + np.cumsum([0.0, *lengths])[:-1]
    together = step_cells(starts, lengths, 0.7)
    for i, (start, step) in enumerate(zip(starts, lengths, strict=True)):
        alone = step_cells(start, step, 0.7)
        assert [a.shape for a in alone] == [()] * 3
        assert all(a == b[i] for a, b in zip(alone, together, strict=True))
    stacked = step_cells(np.stack([starts, starts], 1), np.stack([lengths, lengths], 1), 0.7)
    assert all((s == t[:, None]).all() for s, t in zip(stacked, together, strict=True))


@pytest.mark.parametrize(
    ("starts", "steps", "dt", "text"),
    [
        ([0.0], [1.0], 0.0, "dt: got 0.0; accepted is a positive, finite step"),
        ([0.0], [1.0], math.nan, "dt: got nan"),
        ([0.0, math.inf], [1.0, 1.0], 1.0, "starts: got inf; accepted is finite times"),
        ([0.0], [-1.0], 1.0, "steps: got -1.0; accepted is positive, finite lengths"),
        ([0.0], [math.nan], 1.0, "steps: got nan"),
        ([2.0**33], [1.0], 1.0, "Use a larger dt"),
        ([-(2.0**33) - 1], [1.0], 1.0, "within 8589934592 of t = 0"),
        ([0.0, 2.0**31], [1.0, 0.5], 1.0, "within 2147483648 of t = 0"),
        ([1e300], [1e-300], 1e-300, "dt: got 1e-300 with a step at t = 1e\\+300, which is inf steps of dt"),
    ],
)
def test_steps_without_a_name_are_refused(starts, steps, dt, text):
    with pytest.raises(ValueError, match=text):
        step_cells(np.array(starts), np.array(steps), dt)
