"""A check is worth something if it fails for a method that is wrong."""

from collections.abc import Iterable

import numpy as np
import pytest
import torch

import sdesolve as ss
from sdesolve.methods import METHODS, Method, RungeKutta, State, Step, Tableau
from validation.check import Case, Check, Section, Settings
from validation.run import run_sections
from validation.sections.diffusion import PROCESS, marginals, score, times
from validation.sections.ode import PROBLEMS, order_of
from validation.sections.sde import STRONG, WEAK, cases, strong_order, weak_order

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
    names = {case.name for case in cases(QUICK)}
    problems = {p.name: p.noise for p in STRONG}
    for (kind, name), method in METHODS.items():
        if kind == "sde":
            measured = {noise for p, noise in problems.items() if f"{name}, strong, {p}" in names}
            assert measured == set(method.noise)


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
