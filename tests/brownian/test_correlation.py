"""Correlated motions are a Cholesky factor times independent ones."""

import math

import pytest
import torch

from sdesolve.brownian import BrownianPath

F32, F64 = torch.float32, torch.float64
R = torch.tensor([[1.0, 0.6, -0.3], [0.6, 1.0, 0.2], [-0.3, 0.2, 1.0]], dtype=F64)


@pytest.mark.parametrize("end", [2.0, 1.7])
@pytest.mark.parametrize("levy", ["space-time-time", "davie-foster"])
def test_correlated_increments_are_the_factor_times_the_independent_ones(levy, end):
    correlated, plain = (
        BrownianPath(0, (5, 3), cell=0.5, dtype=F64, levy=levy, correlation=c)(0.1, end) for c in (R, None)
    )
    L = torch.linalg.cholesky(R)
    for x, y in zip(correlated[:3], plain[:3], strict=True):
        if x is not None:
            torch.testing.assert_close(x, y @ L.T, rtol=0, atol=1e-14)
    if levy == "davie-foster":
        torch.testing.assert_close(correlated.area, L @ plain.area @ L.T, rtol=0, atol=1e-14)
        assert torch.allclose(correlated.area, -correlated.area.transpose(1, 2), rtol=0, atol=1e-15)


@pytest.mark.parametrize("inner", [False, True])
def test_channels_have_the_given_covariance(inner):
    n, h = 100_000, 0.5
    path = BrownianPath(1, (n, 3), cell=0.5, dtype=F64, correlation=R, levy="space-time-time")
    inc = path(0.2, 0.7) if inner else path(1.0, 1.5)
    for x, variance in zip(inc[:3], (h, h / 12, h / 720), strict=True):
        found = x.T @ x / n / variance
        error = ((1 + R**2) / n).sqrt()
        assert ((found - R).abs() < 4 * error).all()
    cross = (inc.w.T @ inc.H) / n * math.sqrt(12) / h
    assert (cross.abs() < 4.5 / math.sqrt(n)).all()


@pytest.mark.parametrize("dtype", [F32, F64])
def test_a_correlated_trajectory_is_bitwise_the_same_in_every_batch(dtype):
    path = BrownianPath(2, (100, 3), cell=0.5, dtype=dtype, correlation=R, levy="davie-foster")
    for s, e in ((0.0, 3.0), (0.1, 0.7), (0.1, 3.3)):
        together = path(s, e)
        for i in (0, 57, 99):
            alone = path.for_paths([i])(s, e)
            assert all(torch.equal(a[0], b[i]) for a, b in zip(alone, together, strict=True) if a is not None)


def test_channels_of_any_shape_can_be_correlated():
    for shape, m in (((4,), 1), ((4, 2, 2), 4), ((0, 2), 2), ((4, 0), 0)):
        eye = BrownianPath(0, shape, cell=0.5, correlation=torch.eye(m))
        plain = BrownianPath(0, shape, cell=0.5)
        for s, e in ((0.0, 2.0), (0.1, 0.2), (0.1, 2.2)):
            assert torch.equal(eye(s, e), plain(s, e))
        assert torch.equal(eye.increments(0, 3), plain.increments(0, 3))


def test_the_matrix_is_read_once():
    matrix = R.clone()
    path = BrownianPath(0, (3, 3), cell=0.5, correlation=matrix)
    expected = path(0.0, 1.0)
    matrix.mul_(torch.eye(3, dtype=F64))
    assert torch.equal(path.for_paths([0, 1, 2])(0.0, 1.0), expected)


@pytest.mark.parametrize(
    ("matrix", "text"),
    [
        ([[1.0, 0.0], [0.0, 1.0]], r"correlation: got shape \(2, 2\); accepted is a positive definite \(3, 3\) matrix"),
        ([1.0, 1.0, 1.0], r"correlation: got shape \(3,\)"),
        ("identity", "correlation: got str"),
        ([[1.0, 0.9, -0.9], [0.9, 1.0, 0.9], [-0.9, 0.9, 1.0]], r"correlation: got \[\[1.0, 0.9"),
        ([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]], "correlation: got"),
        ([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]], "correlation: got .* Scale the diffusion"),
        ([[1.0, 0.1, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]], "correlation: got"),
        ([[math.nan] * 3] * 3, "correlation: got"),
    ],
)
def test_other_matrices_are_refused(matrix, text):
    with pytest.raises(ValueError, match=text):
        BrownianPath(0, (2, 3), cell=1.0, correlation=matrix)


def test_a_correlation_that_requires_a_gradient_is_refused_rather_than_detached():
    with pytest.raises(ValueError, match="correlation: got a tensor that requires a gradient"):
        BrownianPath(0, (2, 2), cell=1.0, correlation=torch.eye(2, requires_grad=True))
