"""Levy areas: how increments join and reverse, and the law of the areas between channels."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from sdesolve.brownian import BrownianPath
from sdesolve.brownian.levy import Increment, Normals, contribution, davie_foster, followed, reversed_increment, share
from tests.brownian.reference import integrals, joined, w_h_k

F32, F64 = torch.float32, torch.float64
NORMAL = st.floats(-5, 5)
LENGTH = st.floats(1e-3, 1e3)
CELL = 1 << 32


def increment_of(standard, length):
    return Increment(*(torch.tensor(x, dtype=F64) for x in w_h_k(integrals(standard, length), length)))


@given(st.tuples(NORMAL, NORMAL, NORMAL), LENGTH, st.tuples(NORMAL, NORMAL, NORMAL), LENGTH)
def test_contributions_of_neighbours_add_up_to_the_integrals_over_both(a, length_a, b, length_b):
    h = length_a + length_b
    expected = w_h_k(joined(integrals(a, length_a), length_a, integrals(b, length_b), length_b), h)
    places = [(length_a / h, (length_a - h) / (2 * h)), (length_b / h, (h - length_b) / (2 * h))]
    pieces = [increment_of(a, length_a), increment_of(b, length_b)]
    both = followed(*(contribution(x, r, d) for x, (r, d) in zip(pieces, places, strict=True)))
    tolerance = 1e-13 * math.sqrt(h) * 10
    assert [x.item() for x in both[:3]] == [pytest.approx(x, abs=tolerance) for x in expected]
    # the same in standard deviations
    normals = [Normals(*(torch.tensor(x, dtype=F64) for x in z)) for z in (a, b)]
    shares = [
        share(z, torch.tensor(r, dtype=F64), torch.tensor(d, dtype=F64))
        for z, (r, d) in zip(normals, places, strict=True)
    ]
    total = Normals(*(x + y for x, y in zip(*shares, strict=True))).increment(math.sqrt(h), "space-time-time")
    assert [x.item() for x in total[:3]] == [pytest.approx(x, abs=tolerance) for x in expected]


@given(st.tuples(NORMAL, NORMAL, NORMAL), LENGTH, st.tuples(NORMAL, NORMAL, NORMAL), LENGTH)
def test_reading_backwards_and_joining_commute(a, length_a, b, length_b):
    h = length_a + length_b
    first, second = increment_of(a, length_a), increment_of(b, length_b)
    place = lambda before, length: (length / h, (before + length / 2) / h - 0.5)
    there = followed(contribution(first, *place(0, length_a)), contribution(second, *place(length_a, length_b)))
    back = followed(
        contribution(reversed_increment(second), *place(0, length_b)),
        contribution(reversed_increment(first), *place(length_b, length_a)),
    )
    for x, y in zip(reversed_increment(there)[:3], back[:3], strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=1e-12 * math.sqrt(h))


def areas(length, count=200_000, seed=3, m=2):
    path = BrownianPath(seed, (count, m), cell=length, dtype=F64)
    return path.cells(5, 1, "davie-foster").map(lambda x: x[0])


@pytest.mark.parametrize("length", [0.25, 7.0])
def test_levy_areas_have_the_conditional_mean_and_variance_of_theory(length):
    """Given W and H: mean H W' - W H', variance h^2/20 + h/5 (H_i^2 + H_j^2), and normal."""
    w, H, _, area = areas(length)
    mean = H[:, 0] * w[:, 1] - w[:, 0] * H[:, 1]
    variance = length**2 / 20 + length / 5 * (H**2).sum(1)
    z = (area[:, 0, 1] - mean) / variance.sqrt()
    assert stats.kstest(z.numpy(), "norm").pvalue > 1e-3
    for f in (w[:, 0], H[:, 1], w[:, 0] * H[:, 1], H[:, 0] ** 2):
        f = (f - f.mean()) / f.std()
        assert abs((z * f).mean()) < 4 / math.sqrt(len(z)) and abs(((z**2 - 1) * f).mean()) < 4 * math.sqrt(2 / len(z))


def test_levy_areas_have_variance_a_quarter_and_nearly_the_fourth_moment():
    """E A^4 of Davie and Foster's is 123/400 h^4, by the moments of W, H and b; Levy's own 5/16, or 1.6 % more."""
    a = areas(2.0, 400_000).area[:, 0, 1] / 2.0
    n = len(a)
    assert abs((a**2).mean() - 1 / 4) < 4 * (a**2).std() / math.sqrt(n)
    assert abs((a**4).mean() - 123 / 400) < 4 * (a**4).std() / math.sqrt(n)
    # the moments behind 123/400, with h = 1 and M = H W' - W H'
    M4, M2 = 2 * (3 * 3 / 144) + 6 / 144, 1 / 6
    M2H2 = 2 * (3 / 144 + 1 / 144)
    spread2 = M2 / 20 + M2H2 / 5
    spread4 = 1 / 400 + 2 / 20 / 5 * (1 / 6) + (2 * 3 / 144 + 2 / 144) / 25
    assert M4 + 6 * spread2 + 3 * spread4 == pytest.approx(123 / 400)


@given(st.integers(0, 10**6), st.integers(-4 * CELL, 4 * CELL), st.integers(1, 3 * CELL), st.integers(1, 4))
def test_levy_areas_are_antisymmetric(seed, start, length, m):
    path = BrownianPath(seed, (3, m), cell=0.5, dtype=F32, levy="davie-foster")
    for inc in (
        path.window("davie-foster")(torch.tensor([start]), torch.tensor([start + length])),
        path.between(start, start + length, "davie-foster"),
    ):
        assert inc.area.shape == (3, m, m) and torch.equal(inc.area, -inc.area.transpose(1, 2))
        assert not inc.area.diagonal(dim1=1, dim2=2).any()
        assert m == 1 or (inc.area[:, 0, 1] != 0).all()


@given(st.integers(0, 10**6), st.integers(-9, 9), st.integers(1, 9), st.integers(1, 9))
def test_areas_over_whole_cells_obey_chens_relation(seed, first, left, right):
    path = BrownianPath(seed, (2, 3), cell=0.5, dtype=F64, levy="davie-foster")
    s, t, u = (0.5 * n for n in (first, first + left, first + left + right))
    a, b, both = path(s, t), path(t, u), path(s, u)
    outer = a.w[:, :, None] * b.w[:, None]
    torch.testing.assert_close(both.area, a.area + b.area + (outer - outer.transpose(1, 2)) / 2, rtol=0, atol=1e-13)


def test_areas_between_channels_come_in_row_major_order_of_the_pairs():
    w, H = torch.zeros(2, 3, dtype=F64), torch.zeros(2, 3, dtype=F64)
    z = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], dtype=F64)
    upper = davie_foster(w, H, torch.tensor([[1.0], [2.0]], dtype=F64), z) * math.sqrt(20)
    expected = torch.tensor([[[0, 1, 2], [-1, 0, 3], [-2, -3, 0]], [[0, 8, 10], [-8, 0, 12], [-10, -12, 0]]], dtype=F64)
    torch.testing.assert_close(upper, expected, rtol=1e-15, atol=0)


def test_areas_of_different_intervals_pairs_and_trajectories_are_independent():
    path = BrownianPath(9, (50_000, 3), cell=1.0, dtype=F64)
    query = path.window("davie-foster")
    tick = lambda x: torch.tensor([round(x * CELL)])
    z = []
    for s, e in ((0.25, 0.5), (0.25, 0.75), (0.5, 0.75), (0.25, 0.25 + 2.0**-32)):
        w, H, _, area = query(tick(s), tick(e))
        h = e - s
        for i, j in ((0, 1), (0, 2), (1, 2)):
            mean = H[:, i] * w[:, j] - w[:, i] * H[:, j]
            z.append((area[:, i, j] - mean) / (h * h / 20 + h / 5 * (H[:, i] ** 2 + H[:, j] ** 2)).sqrt())
    correlation = torch.corrcoef(torch.stack(z)) - torch.eye(len(z), dtype=F64)
    assert correlation.abs().max() < 4.5 / math.sqrt(50_000)  # of 66 pairs
    assert all(abs((x[1:] * x[:-1]).mean()) < 4 / math.sqrt(50_000) for x in z)
