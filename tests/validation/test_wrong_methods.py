"""A check is worth something if it fails for a method that is wrong."""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest
import torch

import sdesolve as ss
from sdesolve import lattice_clock
from sdesolve.brownian.levy import Increment
from sdesolve.methods import METHODS, Method, RungeKutta, State, Step, Tableau
from sdesolve.methods.stochastic_runge_kutta import StochasticRungeKutta
from sdesolve.methods.stochastic_tableaus import SOSRI, SRA1, SRIW1
from validation.check import Case, Check, Section, Settings
from validation.run import run_sections
from validation.sections import sde_adaptive, sde_law, sde_nested, sde_nonlinear
from validation.sections.diffusion import PROCESS, marginals, score, times
from validation.sections.ode import PROBLEMS, order_of
from validation.sections.sde_orders import cases, claims, strong_order, weak_order
from validation.sections.sde_problems import STRONG, WEAK

QUICK = Settings(quick=True)
EULER, HEUN = METHODS["sde", "euler_maruyama"], METHODS["sde", "heun"]
PROBLEM = {problem.name: problem for problem in STRONG}


def passes(checks: Iterable[Check]) -> bool:
    (check,) = checks
    return check.passed


class HalvedDrift(type(EULER)):
    """Euler-Maruyama that takes half the drift: converges, but to something else."""

    name = "halved drift"

    def step(self, system, state, inc, *, error=False, dense=False):
        y = state.y
        noise = system.noise_term(system.diffusion(inc.t0, y), inc.w)
        return Step(State(y + 0.5 * inc.h * system.drift(inc.t0, y) + noise))


class Predictor(type(HEUN)):
    """Heun's method without its corrector: Euler-Maruyama, which does not see the Stratonovich integral."""

    name = "predictor"

    def step(self, system, state, inc, *, error=False, dense=False):
        return EULER.step(system, state, inc)


class DriftCorrectorOnly(type(HEUN)):
    """Heun's method that corrects the drift and forgets the noise."""

    name = "drift corrector"

    def step(self, system, state, inc, *, error=False, dense=False):
        y, w = state.y, inc.w
        drift, noise = system.drift(inc.t0, y), system.noise_term(system.diffusion(inc.t0, y), w)
        z = y + inc.h * drift + noise
        return Step(State(y + 0.5 * inc.h * (drift + system.drift(inc.t1, z)) + noise))


WRONG: list[tuple[Method, str]] = [
    (HalvedDrift(), "ito"),
    (Predictor(), "stratonovich"),
    (DriftCorrectorOnly(), "stratonovich"),
]


@pytest.mark.parametrize(("method", "calculus"), WRONG)
@pytest.mark.parametrize("problem", ["geometric", "scalar", "commuting"])
def test_wrong_method_fails_its_strong_order(method: Method, calculus: str, problem: str) -> None:
    expected = 0.5 if calculus == "ito" else 1.0
    assert not passes(strong_order(PROBLEM[problem], method, calculus, QUICK, expected))


@pytest.mark.parametrize(("method", "calculus"), WRONG)
@pytest.mark.parametrize("noise", ["diagonal", "scalar", "general"])
def test_wrong_method_fails_its_weak_order(method: Method, calculus: str, noise: str) -> None:
    assert not passes(weak_order(noise, *WEAK[noise], method, calculus, 1.0))


def test_right_methods_pass() -> None:
    assert passes(strong_order(PROBLEM["geometric"], EULER, "ito", QUICK))
    assert passes(strong_order(PROBLEM["geometric"], HEUN, "stratonovich", QUICK))
    assert passes(weak_order("general", *WEAK["general"], EULER, "ito"))


def test_ito_method_on_the_stratonovich_problem_fails() -> None:
    assert not passes(strong_order(PROBLEM["geometric"], Predictor(), "stratonovich", QUICK, 0.5))


def test_every_sde_method_is_measured_on_every_noise_that_it_claims() -> None:
    found = {case.name for case in cases(Settings(quick=False))}
    for (kind, name), method in METHODS.items():
        if kind == "sde" and method.made_for is None:
            measured = [p for p in STRONG if any(n.startswith(name) and n.endswith(f"strong, {p.name}") for n in found)]
            assert {p.noise for p in measured} == set(method.noise)
            assert all(claims(method, p.noise, p.structure) for p in measured)
            for calculus in () if method.additive_only else method.calculus:
                both = "" if len(method.calculus) == 1 else f" ({calculus})"
                problem = "stretched, diagonal" if "diagonal" in method.noise else "shears"
                assert f"{name}{both}, strong, {problem}" in found


def wrong(method: StochasticRungeKutta, **rows: tuple) -> StochasticRungeKutta:
    """The method with other coefficients."""
    return StochasticRungeKutta(method.name, replace(method.tableau, **rows), "none")


# SRA1: a weight of I_10 that is off, and the noise of the second stage's node forgotten. SRIW1: a node of the noise, a
# sign among the weights of I_11. SOSRI: the drift stages without I_10
WRONG_TABLEAUS = [
    (wrong(SRA1, beta_10=(-0.8, 0.8)), "double well"),
    (wrong(SRA1, B0=((), (1.0,))), "double well"),
    (wrong(SRIW1, B1=((), (1 / 2,), (-1.0,), (-5.0, 3.0, 1.0))), "geometric"),
    (wrong(SRIW1, beta_11=(-1.0, 4 / 3, 1 / 3, 0.0)), "geometric"),
    (wrong(SOSRI, B0=((), (), (), ())), "stretched, diagonal"),
]


@pytest.mark.parametrize(("method", "problem"), WRONG_TABLEAUS)
def test_wrong_stochastic_tableau_fails_its_strong_order(method: StochasticRungeKutta, problem: str) -> None:
    assert not passes(strong_order(PROBLEM[problem], method, "ito", QUICK))


def test_wrong_stochastic_tableau_fails_its_weak_order() -> None:
    assert not passes(weak_order("additive", *WEAK["additive"], wrong(SRA1, B0=((), (1.0,))), "ito"))
    other = wrong(SRIW1, B1=((), (1 / 2,), (-1.0,), (-5.0, 3.0, 1.0)))
    assert not passes(weak_order("diagonal", *WEAK["diagonal"], other, "ito"))
    assert not passes(sde_nonlinear.weak_order(other, "ito"))
    assert not passes(sde_nonlinear.weak_order(wrong(SOSRI, alpha=(1.0, 0.0, 0.0, 0.0)), "ito"))


def test_halved_drift_fails_the_nonlinear_weak_order() -> None:
    assert not passes(sde_nonlinear.weak_order(HalvedDrift(), "ito"))


def test_adaptive_steps_for_another_drift_do_not_converge() -> None:
    other = sde_adaptive.Geometric(0.45, 0.8).sde("ito")
    assert not passes(sde_adaptive.strong_error(replace(sde_adaptive.GEOMETRIC, sde=other), "sosri", QUICK))


def test_noise_drawn_anew_after_a_rejection_has_the_wrong_law(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small increments are kept and large ones replaced: the variance shrinks."""
    generator = torch.Generator().manual_seed(0)

    def fresh(noise: lattice_clock.PathNoise, proposal) -> Increment:
        length = proposal.h.abs()[:, None]
        return Increment(torch.randn(len(length), 1, generator=generator, dtype=torch.float64) * length.sqrt())

    monkeypatch.setattr(lattice_clock.PathNoise, "__call__", fresh)
    found = next(iter(sde_law.end_points("heun", "stratonovich", QUICK)))
    assert not found.passed


def test_steps_that_skip_rejected_times_have_a_biased_levy_area(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that forgets a rejected step's end: the one-sided error finds it, by the bias that theory says."""

    def forgetful(clock, state, proposal, accept):
        index, base, length, part, most = state
        end = clock.sign * proposal.ticket[1]
        index = torch.where(accept & proposal.landing, proposal.target, index)
        return index, torch.where(accept, end, base), length, part, most

    assert all(check.passed for check in sde_nested.unbiased(QUICK))
    monkeypatch.setattr(lattice_clock.LatticeClock, "advance", forgetful)
    _, one_sided = sde_nested.unbiased(QUICK)
    assert not one_sided.passed
    # ten blocks of three cells in 32
    expected = sde_nested.BIAS * 30 / 32
    assert abs(one_sided.details["measured"][0] - expected) < 4 * one_sided.details["std_error"][0]


@pytest.mark.parametrize(
    ("b", "c", "a"),
    [
        # weights that do not add up to 1, and a node that forgets the time: order 0, and 1 for f(t, y)
        ((0.5, 0.4), (0.0, 1.0), 1.0),
        ((0.5, 0.5), (0.0, 0.0), 1.0),
        ((0.5, 0.5), (0.0, 1.0), 0.5),
    ],
)
def test_wrong_tableau_fails_its_order(b: tuple[float, ...], c: tuple[float, ...], a: float) -> None:
    wrong = RungeKutta("wrong", 2, Tableau(((), (a,)), b, c), "none")
    cases = [Case("wrong", lambda: order_of(PROBLEMS[0], wrong, 6))]
    run = run_sections([Section("ode", "", lambda settings: cases)], QUICK)
    assert len(run.checks) == 1
    assert not run.passed


def test_reverse_sde_without_the_second_half_of_the_score_fails() -> None:
    n = 10_000
    start = torch.from_numpy(np.random.default_rng(0).standard_normal((n, 2)))
    wrong = ss.SDE(
        lambda t, x: PROCESS.drift(t, x) - 0.5 * PROCESS.diffusion(t, x) ** 2 * score(t, x),
        lambda t, x: PROCESS.diffusion(t, x),
        additive=True,
    )
    solution = ss.solve(wrong, start, times(1.0, 0.4), method="heun", dt=0.01, seed=0)
    assert not all(check.passed for check in marginals("wrong", solution, [1]))
