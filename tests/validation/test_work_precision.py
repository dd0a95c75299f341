"""Work, precision and references of the ODE problems: measured right, and a method that is wrong fails its check."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

import sdesolve as ss
from sdesolve.methods import METHODS, RungeKutta
from sdesolve.methods.explicit import DOPRI5, TSIT5
from validation.sections import ode_stiff
from validation.sections.ode_problems import (
    ARENSTORF,
    BRUSSELATOR,
    LOTKA_VOLTERRA,
    PLEIADES,
    SMOOTH,
    STIFF,
    reference,
)
from validation.sections.ode_work_precision import (
    MOST_WORK,
    Counted,
    Measured,
    ours,
    scipys,
    tight_outputs,
    torchdiffeqs,
    work_check,
    work_precision,
    work_ratio,
)

TOLERANCES = 10.0 ** -np.linspace(3, 7, 17)


@pytest.mark.parametrize("problem", [*SMOOTH, *STIFF], ids=lambda problem: problem.name)
def test_right_hand_sides_are_the_same_for_arrays_tensors_and_batches(problem) -> None:
    rng = np.random.default_rng(0)
    y = np.abs(problem.y0) + rng.random((3, len(problem.y0)))
    rows = np.array([problem.f(0.0, row) for row in y])
    np.testing.assert_allclose(problem.f(0.0, y), rows, rtol=1e-14)
    np.testing.assert_allclose(problem.f(torch.tensor(0.0), torch.from_numpy(y)), rows, rtol=1e-14)


# what DOP853 at 1e-13 and LSODA at 1e-12 are good for: the orbit passes close to the earth and the moon
ENDS = [(LOTKA_VOLTERRA, 1e-12, 1e-10), (BRUSSELATOR, 1e-12, 1e-10), (ARENSTORF, 1e-9, 1e-6), (PLEIADES, 1e-11, 1e-8)]


@pytest.mark.parametrize(("problem", "first", "second"), ENDS, ids=lambda value: getattr(value, "name", ""))
def test_two_methods_of_scipy_find_the_printed_ends(problem, first, second) -> None:
    assert problem.error(reference(problem, [problem.T])[0]) < first
    assert problem.error(reference(problem, [problem.T / 3, problem.T])[-1]) < first
    found = solve_ivp(problem.f, (0, problem.T), problem.y0, method="LSODA", rtol=1e-12, atol=1e-12).y[:, -1]
    assert problem.error(found) < second


@pytest.mark.parametrize("problem", STIFF, ids=lambda problem: problem.name)
def test_two_methods_of_scipy_find_the_printed_ends_of_stiff_problems(problem) -> None:
    assert problem.error(reference(problem, [problem.T])[0]) < 1e-9
    atol = 1e-8 * np.broadcast_to(problem.scale, len(problem.y0))
    found = solve_ivp(problem.f, (0, problem.T), problem.y0, method="Radau", rtol=1e-8, atol=atol).y[:, -1]
    assert problem.error(found) < 1e-9


def power_law(name: str, constant: float, order: float, noise: float = 0.0, last: float = 8.0) -> Measured:
    tolerances = 10.0 ** -np.linspace(3, last, 21)
    errors = tolerances * np.exp(noise * np.random.default_rng(0).standard_normal(21))
    return Measured(name, tolerances, constant * tolerances ** (-1 / order), errors)


def test_the_ratio_of_two_power_laws_is_that_of_their_constants() -> None:
    ratio, (low, high) = work_ratio(power_law("a", 30.0, 5), power_law("b", 20.0, 5, last=7))
    assert ratio == pytest.approx(1.5)
    assert (low, high) == pytest.approx((1e-7, 1e-3))
    noisy, _ = work_ratio(power_law("a", 30.0, 5, noise=0.5), power_law("b", 20.0, 5))
    assert noisy == pytest.approx(1.5, rel=0.05)
    # orders 4 and 5 from 1e-8 to 1e-3: the exponents' difference over the mean logarithm of the error
    bent, _ = work_ratio(power_law("a", 1.0, 4), power_law("b", 1.0, 5))
    assert bent == pytest.approx(10 ** (5.5 / 20))


def test_curves_that_share_no_errors_are_not_compared() -> None:
    loose = Measured("loose", TOLERANCES[:4], np.arange(1.0, 5), np.geomspace(1e-2, 1e-3, 4))
    tight = Measured("tight", TOLERANCES[:4], np.arange(1.0, 5), np.geomspace(1e-6, 1e-9, 4))
    with pytest.raises(ValueError, match="decade"):
        work_ratio(loose, tight)
    lost = Measured("lost", TOLERANCES[:4], np.arange(1.0, 5), np.array([np.nan, 5.0, 0.5, 1e-14]))
    with pytest.raises(ValueError, match="fewer than two errors"):
        work_ratio(lost, loose)


def test_a_batch_of_tolerances_is_measured_as_each_alone() -> None:
    measured = ours(BRUSSELATOR, DOPRI5, TOLERANCES[::4])
    for k, tol in enumerate(TOLERANCES[::4]):
        ts = torch.tensor([0.0, BRUSSELATOR.T], dtype=torch.float64)
        f = Counted(BRUSSELATOR.f)
        alone = ss.solve(ss.ODE(f), BRUSSELATOR.start(1), ts, method="dopri5", rtol=tol, atol=tol)
        assert measured.evaluations[k] == f.calls
        assert measured.errors[k] == pytest.approx(float(BRUSSELATOR.error(alone.ys[-1, 0].numpy())), rel=1e-6)


def test_the_same_controller_would_be_measured_as_the_same_work() -> None:
    """torchdiffeq's dopri5 has SciPy's controller, but for the first step and the end."""
    pytest.importorskip("torchdiffeq")
    theirs = torchdiffeqs(BRUSSELATOR, "dopri5", TOLERANCES)
    ratio, _ = work_ratio(theirs, scipys(BRUSSELATOR, "RK45", TOLERANCES))
    assert 0.8 < ratio < 1.25


def dopri5(**changed) -> RungeKutta:
    return RungeKutta("dopri5", 5, replace(DOPRI5.tableau, dense=None, **changed), "none")


def with_idle_stages() -> RungeKutta:
    """The first stage is evaluated three times: 8 evaluations a step, where the method takes 6."""
    tab = DOPRI5.tableau
    put = lambda row: (*row[:1], 0.0, 0.0, *row[1:])
    a = ((), (0.0,), (0.0, 0.0), *(put(row) for row in tab.a[1:]))
    return dopri5(a=a, b=put(tab.b), c=put(tab.c), lower=put(tab.lower))


def with_a_wrong_coefficient() -> RungeKutta:
    """Its sum, and so the order 2, is kept."""
    tab = DOPRI5.tableau
    row = (tab.a[4][0] + 0.1, tab.a[4][1] - 0.1, *tab.a[4][2:])
    return dopri5(a=(*tab.a[:4], row, *tab.a[5:]))


def with_an_optimist_s_error() -> RungeKutta:
    """An error estimate of a thousandth."""
    tab = DOPRI5.tableau
    return dopri5(lower=tuple(b - 1e-3 * (b - low) for b, low in zip(tab.b, tab.lower, strict=True)))


@pytest.fixture(scope="module")
def rk45():
    return scipys(BRUSSELATOR, "RK45", TOLERANCES)


def test_work_of_dopri5_passes(rk45) -> None:
    assert work_check(BRUSSELATOR, ours(BRUSSELATOR, DOPRI5, TOLERANCES), rk45, MOST_WORK).passed


@pytest.mark.parametrize("wrong", [with_idle_stages, with_a_wrong_coefficient])
def test_work_of_a_wrong_method_fails(wrong, rk45) -> None:
    assert not work_check(BRUSSELATOR, ours(BRUSSELATOR, wrong(), TOLERANCES), rk45, MOST_WORK).passed


def test_errors_at_tight_tolerances_pass_and_those_of_a_wrong_estimate_fail() -> None:
    assert next(tight_outputs(LOTKA_VOLTERRA, DOPRI5, "RK45", quick=True)).passed
    assert not next(tight_outputs(LOTKA_VOLTERRA, with_an_optimist_s_error(), "RK45", quick=True)).passed


def test_a_diagram_has_every_curve_once() -> None:
    checks = list(work_precision(LOTKA_VOLTERRA, True, {"dopri5": "RK45", "tsit5": "RK45"}))
    assert [curve.label for curve in checks[0].curves] == ["dopri5", "SciPy RK45", "tsit5"]
    assert len({curve.figure for check in checks for curve in check.curves}) == 1
    assert checks[0].criterion == "at most 1.1"
    assert checks[1].criterion == "a number, reported"


def test_oscillators_in_a_batch_take_the_steps_that_they_take_alone(monkeypatch) -> None:
    tsit5 = METHODS["ode", "tsit5"]
    errors, steps = ode_stiff.oscillators(tsit5, 10.0, 4, 2)
    assert errors.passed
    assert steps.passed
    # one clock for all: the mild ones take the steps of the stiff ones
    solve = ss.solve
    together = lambda *args, **options: solve(args[0], args[1], args[2][0], **options, shared_steps=True)
    monkeypatch.setattr(ode_stiff.ss, "solve", together)
    assert not list(ode_stiff.oscillators(tsit5, 10.0, 4, 2))[1].passed


def test_a_stiff_method_is_held_to_the_power_of_the_tolerance_that_its_orders_give() -> None:
    """Order 4 with an error estimate of order 5: tol^(4/5). The first tolerance is too loose to count."""
    method = SimpleNamespace(name="four", order=4, error_order=5)
    tolerances = 10.0 ** -np.arange(3.0, 9.0)
    errors = 2 * tolerances**0.8
    measured = Measured("four", tolerances, 1 / tolerances, errors * [1e4, 1, 1, 1, 1, 1])
    check = ode_stiff.promise_check(STIFF[0], method, measured)
    assert check.passed
    assert check.measured == pytest.approx(2)
    # an error that stops falling, and a solve that failed
    assert not ode_stiff.promise_check(STIFF[0], method, replace(measured, errors=errors + 1e-3)).passed
    assert not ode_stiff.promise_check(
        STIFF[0], method, replace(measured, errors=errors * [1, 1, np.nan, 1, 1, 1])
    ).passed


def test_oscillators_with_a_wrong_error_estimate_miss_their_tolerance() -> None:
    tab = TSIT5.tableau
    lower = tuple(b - 1e-3 * (b - low) for b, low in zip(tab.b, tab.lower, strict=True))
    wrong = RungeKutta("tsit5", 5, replace(tab, lower=lower), "none")
    assert not next(ode_stiff.oscillators(wrong, 10.0, 4, 2)).passed
