"""The real workloads, made small: their answers agree with the references, and wrong answers do not."""

import ctypes
import importlib.util
import math
import shutil
import sys
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

import sdesolve as ss
from benchmarks.reference import is_white, relative_error, rk4, stratonovich_heun
from benchmarks.workload import Case, Contender, Size
from benchmarks.workloads import (
    WORKLOADS,
    adaptive_sde,
    gbm,
    gradients,
    likelihood,
    lorenz,
    neural_ode,
    neural_sde,
    neural_sde_gradients,
    scaling,
)
from benchmarks.workloads.gbm_hand import library, native_loop

CPU = torch.device("cpu")
CASES = {
    "gbm": lambda: gbm.case(5_000, 16, CPU),
    "lorenz": lambda: lorenz.case(16, CPU),
    "neural_ode": lambda: neural_ode.cases(CPU)[0],
    "neural_sde": lambda: neural_sde.case(1 / 8, "1/8", CPU),
    "neural_sde_gradients": lambda: neural_sde_gradients.case(1 / 8, "1/8", CPU),
    "neural_ode, outputs": lambda: neural_ode.cases(CPU)[1],
    "likelihood": lambda: likelihood.case(20, CPU),
    "adaptive_sde": lambda: adaptive_sde.case(500, CPU),
    "scaling": lambda: linear(10, 3, 16),
    "gradients": lambda: gradients.ode_case(100, CPU),
    "gradients of an SDE": lambda: gradients.sde_case(20, CPU),
}


def linear(batch: int, dimension: int, steps: int) -> Case:
    sde = ss.SDE(lambda t, y: gbm.MU * y, lambda t, y: gbm.SIGMA * y)
    return scaling.linear(sde, batch, dimension, steps, CPU, Size("small", "batch", batch))


def named(case: Case, name: str) -> Contender:
    return next(contender for contender in case.contenders if contender.name == name)


def is_there(contender: Contender) -> bool:
    if contender.program is not None and shutil.which(contender.program) is None:
        return False
    return contender.needs is None or importlib.util.find_spec(contender.needs) is not None


@pytest.mark.parametrize(
    "workload", [pytest.param(name, marks=[pytest.mark.slow] if name == "adaptive_sde" else []) for name in CASES]
)
def test_ours_and_peers_agree_with_the_reference(workload: str) -> None:
    case = CASES[workload]()
    for contender in case.contenders:
        if contender.role != "floor" and "compiled" not in contender.name and is_there(contender):
            assert case.error(contender.run()) <= case.tolerance, contender.name


def off_by_a_tenth(answer: Any) -> Any:
    return answer._replace(y=1.1 * answer.y) if isinstance(answer, tuple) else 1.1 * answer


@pytest.mark.parametrize("workload", CASES)
def test_an_answer_that_is_off_by_a_tenth_is_wrong(workload: str) -> None:
    case = CASES[workload]()
    right = case.contenders[0].run()
    assert case.error(right) <= case.tolerance
    assert not case.error(off_by_a_tenth(right)) <= case.tolerance


@pytest.mark.parametrize("workload", CASES)
def test_an_answer_with_a_nan_is_wrong(workload: str) -> None:
    case = CASES[workload]()
    right = case.contenders[0].run()
    y = right.y if isinstance(right, tuple) else right
    y.view(-1)[0] = math.nan
    assert not case.error(right) <= case.tolerance


@pytest.mark.parametrize("workload", WORKLOADS)
def test_names_within_a_workload_tell_cases_and_contenders_apart(
    workload: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(likelihood, "POINTS", 5)
    cases = WORKLOADS[workload].cases(CPU)
    assert len({case.name for case in cases}) == len(cases)
    for case in cases:
        assert len({c.name for c in case.contenders}) == len(case.contenders)


@pytest.mark.parametrize("workload", WORKLOADS)
def test_targets_name_contenders_of_their_case(workload: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(likelihood, "POINTS", 5)
    for case in WORKLOADS[workload].cases(CPU):
        known = {c.name for c in case.contenders}
        for target in case.targets:
            for names in (target.contender, target.against):
                assert {names} <= known if isinstance(names, str) else set(names) <= known


def test_euler_maruyama_moments_are_told_from_those_of_the_equation_with_other_noise() -> None:
    case = gbm.case(5_000, 16, CPU)
    sde = ss.SDE(lambda t, y: gbm.MU * y, lambda t, y: 1.1 * gbm.SIGMA * y)
    y0, ts = torch.ones(5_000, 1), torch.tensor([0.0, 1.0])
    y = ss.solve(sde, y0, ts, dt=1 / 16, seed=0, method="euler_maruyama").ys[-1]
    assert case.error(y) > case.tolerance


def test_neural_sde_read_in_the_ito_sense_is_a_wrong_answer() -> None:
    case = neural_sde.case(1 / 8, "1/8", CPU)
    networks, y0 = neural_sde.start()
    ito = ss.SDE(networks.f, networks.g)
    with torch.no_grad():
        y = ss.solve(ito, y0, torch.tensor([0.0, 1.0]), dt=1 / 8, seed=0).ys[-1]
    right = case.contenders[0].run()
    assert case.error(right) <= case.tolerance
    assert case.error(right._replace(y=y)) > case.tolerance


@pytest.mark.parametrize("factor", [0.95, 1.05])
def test_noise_of_another_variance_is_a_wrong_answer_even_along_its_own_path(factor: float) -> None:
    case = neural_sde.case(1 / 8, "1/8", CPU)
    right = case.contenders[0].run()
    steps, increments = right.path()
    assert case.error(right._replace(path=lambda: (steps, factor * increments))) == math.inf


@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_scaled_noise_is_a_wrong_answer_even_along_its_own_path(factor: float) -> None:
    case = linear(100, 1, 64)
    right = case.contenders[0].run()
    path = factor * right.path()
    y = torch.prod(1 + gbm.MU / 64 + gbm.SIGMA * path.double(), 0)
    assert case.error(right) <= case.tolerance
    assert case.error(scaling.Answer(y, lambda: path)) == math.inf


def test_increments_that_depend_on_each_other_are_not_white() -> None:
    z = torch.randn(1000, 50, generator=torch.Generator().manual_seed(0)) / 1000**0.5
    assert is_white(z) and is_white(z[:, :1] * 1.0)
    assert not is_white((z + z.roll(1, 0)) / 2**0.5)
    assert not is_white((z + z.roll(1, 1)) / 2**0.5)
    assert not is_white(z + 0.1 / 1000**0.5)


def test_adaptive_answer_of_the_equation_read_in_the_other_calculus_is_wrong() -> None:
    case = adaptive_sde.case(500, CPU)
    right = case.contenders[0].run()
    stratonovich = right.y * math.exp(adaptive_sde.SIGMA**2 / 2)
    assert case.error(right) <= case.tolerance < case.error(right._replace(y=stratonovich))


def test_adaptive_answer_along_noise_of_another_variance_is_wrong() -> None:
    case = adaptive_sde.case(2_000, CPU)
    right = case.contenders[0].run()
    w = 1.2 * right.w()
    y = torch.exp(adaptive_sde.MU - adaptive_sde.SIGMA**2 / 2 + adaptive_sde.SIGMA * w)
    assert case.error(adaptive_sde.Answer(y, lambda: w)) == math.inf


def test_one_point_in_many_with_a_wrong_likelihood_makes_the_answer_wrong() -> None:
    case = likelihood.case(20, CPU)
    right = case.contenders[0].run()
    right[7] += 3e-4
    assert not case.error(right) <= case.tolerance


def test_loosest_tolerance_is_the_first_at_which_the_answer_is_right() -> None:
    answers: list[float] = []

    def solve(tolerance: float) -> torch.Tensor:
        answers.append(tolerance)
        return torch.tensor(3 * tolerance)

    assert likelihood.loosest(solve, float) == pytest.approx(10**-4.5 if 10**-4.5 in answers else 10**-5)
    assert answers == sorted(answers, reverse=True)
    assert 3 * answers[-1] <= likelihood.WORST and all(3 * a > likelihood.WORST for a in answers[:-1])
    assert likelihood.loosest(lambda tolerance: torch.tensor(1.0), float) == likelihood.TOLERANCES[-1]


def test_cases_are_made_without_the_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("diffrax", "jax", "numba", "torchode", "torchdiffeq", "torchsde"):
        monkeypatch.setitem(sys.modules, package, None)
    for make in CASES.values():
        case = make()
        assert case.error(case.contenders[0].run()) <= case.tolerance


needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")


@needs_compiler
@pytest.mark.parametrize(
    ("path", "words"), [(0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8))], ids=["counter 0, key 0"]
)
def test_words_of_the_native_loop_are_those_of_philox(path: int, words: tuple[int, ...]) -> None:
    assert tuple(native_block(path, 0, 0)[0]) == words


@needs_compiler
def test_normals_of_the_native_loop_are_box_muller_of_its_words() -> None:
    for path in range(500):
        words, z = native_block(path, 3, 5)
        for k in (0, 2):
            radius = math.sqrt(-2 * math.log(((words[k] >> 8) + 0.5) / 2**24))
            angle = 2 * math.pi * words[k + 1] / 2**32
            assert z[k] == pytest.approx(radius * math.cos(angle), abs=5e-6)
            assert z[k + 1] == pytest.approx(radius * math.sin(angle), abs=5e-6)


@needs_compiler
@pytest.mark.parametrize(("paths", "steps"), [(1, 1), (64, 4), (65, 7), (200, 16)])
def test_native_loop_takes_the_steps_it_is_asked_for(paths: int, steps: int) -> None:
    found, h = native_loop(paths, steps, 0.05, 0.2)(), 1 / steps
    for path in {0, paths // 2, paths - 1}:
        z = [z for block in range(-(-steps // 4)) for z in native_block(path, block, 0)[1]][:steps]
        assert found[path] == pytest.approx(math.prod(1 + 0.05 * h + 0.2 * math.sqrt(h) * w for w in z), rel=1e-5)


def native_block(path: int, number: int, seed: int) -> tuple[list[int], list[float]]:
    words, z = (ctypes.c_uint32 * 4)(), (ctypes.c_float * 4)()
    library().block(path, number, seed, words, z)
    return list(words), list(z)


@needs_compiler
def test_native_loop_leaves_denormal_numbers_alone() -> None:
    library()
    assert np.float32(1e-40) * np.float32(1) != 0


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
    case = neural_ode.cases(CPU)[0]
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    hook = torch.nn.modules.module.register_module_forward_hook(
        lambda module, *_: count() if isinstance(module, torch.nn.Sequential) else None
    )
    try:
        counts = []
        floors = [c for c in case.contenders if c.role == "floor"]
        for contender in (*map(partial(named, case), ("sdesolve, shared steps", "sdesolve, backsolve")), *floors):
            calls = 0
            contender.run()
            counts.append(calls)
    finally:
        hook.remove()
    direct, backsolve, floor, floor_of_backsolve = counts
    assert (direct, backsolve) == (floor, floor_of_backsolve)


def test_cases_leave_the_global_generator_alone() -> None:
    torch.manual_seed(3)
    wanted = torch.rand(1)
    torch.manual_seed(3)
    for make in CASES.values():
        make()
    assert torch.equal(torch.rand(1), wanted)
