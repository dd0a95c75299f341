"""Estimates of the trace of a known matrix: unbiased, of known variance, exact where they must be, smooth in time."""

import math
from functools import partial

import pytest
import torch
from torch import Tensor

from diffusion.trace import orthonormal, trace_estimator

F64 = torch.float64
DRAWS, DIMS = 4000, 6
KINDS = [(trace, probe) for trace in ("hutchinson", "hutch++") for probe in ("rademacher", "gaussian", "sphere")]


def matrix(seed: int = 0, dims: int = DIMS) -> Tensor:
    return torch.randn(dims, dims, dtype=F64, generator=torch.Generator().manual_seed(seed))


def of_rank(rank: int, seed: int = 0, dims: int = DIMS) -> Tensor:
    a = matrix(seed, dims)
    return a[:, :rank] @ a[:rank]


def estimates(J: Tensor, trace: str, probes: int, probe: str, draws: int = DRAWS, seed: int = 1) -> Tensor:
    """``(draws, columns)``, one independent estimate of tr J for each trajectory."""
    x = torch.zeros(draws, J.shape[0], dtype=F64)
    estimator = trace_estimator(trace, probes, probe, x, seed=seed)
    return estimator(lambda x: x @ J.T, x)[1]


@pytest.mark.parametrize(("trace", "probe"), KINDS)
def test_estimates_are_unbiased_and_know_their_standard_error(trace: str, probe: str) -> None:
    J, probes = matrix(), 4 if trace == "hutchinson" else 7
    found = estimates(J, trace, probes, probe)
    columns = {"hutchinson": 4, "hutch++": 3}[trace]
    assert found.shape == (DRAWS, columns)
    mean = found.mean(1)
    spread = float(mean.std())
    assert abs(float(mean.mean() - J.trace())) < 4 * spread / math.sqrt(DRAWS)
    own = float((found.var(1) / columns).mean().sqrt())
    # with "hutch++" an estimate's columns share what the sketch left over, and differ by their probes alone
    assert own == pytest.approx(spread, rel=0.06)


@pytest.mark.parametrize("probe", ["rademacher", "gaussian", "sphere"])
def test_variances_of_single_probes_are_the_known_ones(probe: str) -> None:
    """With S the symmetric part: 2 sum_{i != j} S_ij^2; 2 |S|^2; 2 D / (D + 2) (|S|^2 - tr(S)^2 / D)."""
    J = matrix(2)
    S = 0.5 * (J + J.T)
    size = float(S.square().sum())
    known = {
        "rademacher": 2 * (size - float(S.diagonal().square().sum())),
        "gaussian": 2 * size,
        "sphere": 2 * DIMS / (DIMS + 2) * (size - float(S.trace()) ** 2 / DIMS),
    }
    found = estimates(J, "hutchinson", 1, probe, draws=20_000)
    assert float(found.var()) == pytest.approx(known[probe], rel=0.06)


@pytest.mark.parametrize("probe", ["rademacher", "gaussian", "sphere"])
def test_hutch_plus_plus_is_exact_for_low_rank_and_for_few_dimensions(probe: str) -> None:
    low = of_rank(2)
    torch.testing.assert_close(estimates(low, "hutch++", 6, probe, 50), low.trace().expand(50, 2), rtol=1e-9, atol=1e-9)
    single = of_rank(1)  # less than the sketch: nothing is left to span the rest of it
    torch.testing.assert_close(
        estimates(single, "hutch++", 6, probe, 50), single.trace().expand(50, 2), rtol=1e-9, atol=1e-9
    )
    full = matrix(3, 3)
    assert torch.allclose(estimates(full, "hutch++", 9, probe, 50), full.trace().expand(50, 1), rtol=1e-13)


def test_on_the_sphere_hutch_plus_plus_is_exact_where_the_rest_is_a_multiple_of_the_identity() -> None:
    # a sketch of the identity holds a random direction, so that low rank must be found beside it: one dominant rank
    J = -3.0 * torch.eye(DIMS, dtype=F64)
    on_sphere, signs = (estimates(J, "hutch++", 6, probe, 50) for probe in ("sphere", "rademacher"))
    assert torch.allclose(on_sphere, J.trace().expand(50, 2), rtol=1e-13)
    assert float((signs - J.trace()).abs().max()) > 0.1


def test_hutch_plus_plus_has_a_tenth_of_the_variance_where_few_directions_dominate() -> None:
    Q = torch.linalg.qr(matrix(5, 30)).Q
    J = Q @ torch.diag(2.0 ** -torch.arange(30, dtype=F64)) @ Q.T
    plain, plus = (estimates(J, trace, 12, "rademacher", 1000).mean(1).var() for trace in ("hutchinson", "hutch++"))
    assert float(plus) < 0.1 * float(plain)


@pytest.mark.parametrize(("trace", "probe"), KINDS)
def test_estimates_move_smoothly_with_the_matrix(trace: str, probe: str) -> None:
    """Their derivative in time, by differences, is that by differentiation, through the sketch's basis as well."""
    x = torch.zeros(3, DIMS, dtype=F64)
    estimator = trace_estimator(trace, 6, probe, x, seed=0)

    def at(t: Tensor) -> Tensor:
        J = matrix(0) + t * matrix(1) + torch.sin(3 * t) * torch.eye(DIMS, dtype=F64)
        return estimator(lambda x: x @ J.T, x)[1]

    assert torch.autograd.gradcheck(at, torch.tensor(0.7, dtype=F64, requires_grad=True))


def test_a_jacobian_of_zero_has_estimates_and_gradients_that_are_finite() -> None:
    scale = torch.zeros((), dtype=F64, requires_grad=True)
    x = torch.zeros(4, DIMS, dtype=F64)
    found = trace_estimator("hutch++", 6, "sphere", x, seed=0)(lambda x: scale * x, x)[1]
    assert torch.equal(found, torch.zeros(4, 2, dtype=F64))
    (slope,) = torch.autograd.grad(found.sum(), scale)
    assert slope.isfinite()


@pytest.mark.parametrize(("trace", "probe"), KINDS)
def test_draws_belong_to_a_trajectory(trace: str, probe: str) -> None:
    estimate = partial(trace_estimator, trace, 6, probe, seed=3)
    x = torch.zeros(5, 2, 3, dtype=F64)
    f = lambda x: (x.flatten(1) @ matrix()).reshape(x.shape)
    together = estimate(x)(f, x)[1]
    apart = estimate(x[:2], paths=[4, 1])(f, x[:2])[1]
    torch.testing.assert_close(apart, together[[4, 1]], rtol=1e-12, atol=1e-12)
    assert float(together.std(0).min()) > 1e-3


def test_a_basis_spans_what_it_was_made_of() -> None:
    columns = torch.randn(3, 4, DIMS, dtype=F64)
    columns[2] = columns[0] - 2 * columns[1]
    Q = orthonormal(columns)
    gram = torch.einsum("kbd,lbd->bkl", Q, Q)
    torch.testing.assert_close(gram, torch.diag(torch.tensor([1.0, 1.0, 0.0], dtype=F64)).expand(4, 3, 3))
    within = torch.einsum("kbd,kbe,lbe->lbd", Q, Q, columns)
    torch.testing.assert_close(within, columns)
