"""The real workloads, made small: their answers agree with the references, and wrong answers do not."""

import math

import pytest
import torch

import sdesolve as ss
from benchmarks.reference import relative_error, rk4, stratonovich_heun
from benchmarks.workload import Case, Contender
from benchmarks.workloads import gbm, lorenz, neural_ode, neural_sde

CASES = {
    "gbm": lambda: gbm.case(5_000, 16),
    "lorenz": lambda: lorenz.case(16),
    "neural_ode": lambda: neural_ode.cases()[0],
    "neural_sde": lambda: neural_sde.case(1 / 8, "1/8"),
}


def named(case: Case, name: str) -> Contender:
    return next(contender for contender in case.contenders if contender.name == name)


@pytest.mark.parametrize("workload", CASES)
def test_ours_and_peers_agree_with_the_reference(workload: str) -> None:
    case = CASES[workload]()
    for contender in case.contenders:
        if contender.role != "floor" and "compiled" not in contender.name:
            if contender.needs is not None:
                pytest.importorskip(contender.needs)
            assert case.error(contender.run()) <= case.tolerance, contender.name


@pytest.mark.parametrize("workload", CASES)
def test_an_answer_that_is_off_by_a_tenth_is_wrong(workload: str) -> None:
    case = CASES[workload]()
    right = case.contenders[0].run()
    assert case.error(right) <= case.tolerance
    wrong = right._replace(y=1.1 * right.y) if isinstance(right, neural_sde.Answer) else 1.1 * right
    assert not case.error(wrong) <= case.tolerance


def test_euler_maruyama_moments_are_told_from_those_of_the_equation_with_other_noise() -> None:
    case = gbm.case(5_000, 16)
    sde = ss.SDE(lambda t, y: gbm.MU * y, lambda t, y: 1.1 * gbm.SIGMA * y)
    y0, ts = torch.ones(5_000, 1), torch.tensor([0.0, 1.0])
    y = ss.solve(sde, y0, ts, dt=1 / 16, seed=0, method="euler_maruyama").ys[-1]
    assert case.error(y) > case.tolerance


def test_neural_sde_read_in_the_ito_sense_is_a_wrong_answer() -> None:
    case = neural_sde.case(1 / 8, "1/8")
    networks, y0 = neural_sde.start()
    ito = ss.SDE(networks.f, networks.g)
    with torch.no_grad():
        y = ss.solve(ito, y0, torch.tensor([0.0, 1.0]), dt=1 / 8, seed=0).ys[-1]
    right = case.contenders[0].run()
    assert case.error(right) <= case.tolerance
    assert case.error(right._replace(y=y)) > case.tolerance


@pytest.mark.parametrize("factor", [0.95, 1.05])
def test_noise_of_another_variance_is_a_wrong_answer_even_along_its_own_path(factor: float) -> None:
    case = neural_sde.case(1 / 8, "1/8")
    right = case.contenders[0].run()
    steps, increments = right.path()
    assert case.error(right._replace(path=lambda: (steps, factor * increments))) == math.inf


def test_heun_reference_converges_to_the_stratonovich_solution() -> None:
    """dy = y o dW has y(1) = exp(W(1)); read in the Ito sense it would be exp(W(1) - 1/2)."""
    n = 1024
    w = torch.randn(n, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64) / n**0.5
    start = torch.ones(8, dtype=torch.float64)
    y = stratonovich_heun(torch.zeros_like, lambda y: y, start, torch.full((n,), 1 / n, dtype=torch.float64), w)
    assert relative_error(y, w.sum(0).exp()) < 5e-3


def test_rk4_reference_is_of_order_four() -> None:
    y = torch.ones(1, dtype=torch.float64)
    errors = [abs(float(rk4(lambda y: -y, y, 1.0, n)) - float(torch.exp(-y))) for n in (10, 20)]
    assert errors[0] / errors[1] == pytest.approx(16, rel=0.1)


def test_floor_of_the_neural_ode_calls_the_network_as_often_as_the_solve() -> None:
    case = neural_ode.cases()[0]
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    hook = torch.nn.modules.module.register_module_forward_hook(
        lambda module, *_: count() if isinstance(module, torch.nn.Sequential) else None
    )
    try:
        counts = []
        for contender in (named(case, "sdesolve, shared steps"), case.contenders[-1]):
            calls = 0
            contender.run()
            counts.append(calls)
    finally:
        hook.remove()
    assert counts[0] == counts[1]


def test_cases_leave_the_global_generator_alone() -> None:
    torch.manual_seed(3)
    wanted = torch.rand(1)
    torch.manual_seed(3)
    for make in CASES.values():
        make()
    assert torch.equal(torch.rand(1), wanted)
