"""The workload of the SDE methods: its paths, its exact solutions, what it measures, and its tables and charts."""

import math
import sys
from pathlib import Path as File
from typing import Any

import pytest
import torch

from benchmarks.figures import as_json
from benchmarks.page import page
from benchmarks.plots import plot
from benchmarks.reference import in_double, largest_z, relative_error, stratonovich_midpoint
from benchmarks.run import run_workloads
from benchmarks.work_precision import Curve, Point, diagrams
from benchmarks.workload import Case, Contender, Precision, Row, Workload
from benchmarks.workloads import neural_sde, sde
from benchmarks.workloads.sde_peers import DIFFRAX, TORCHSDE, Answer, Theirs, torchsde_solve
from benchmarks.workloads.sde_problems import PROBLEMS, Path
from sdesolve.methods import METHODS

CPU = torch.device("cpu")
MULTIPLICATIVE, ADDITIVE, SHEARS = PROBLEMS


def drawn(steps: int, paths: int, channels: int = 1, seed: int = 0) -> Path:
    z = torch.randn(2, steps, paths, channels, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return Path(z[0] / steps**0.5, z[1] / (12 * steps) ** 0.5)


# ---- paths


def test_finer_path_has_the_increments_and_areas_of_the_coarse_one() -> None:
    coarse, parts = drawn(3, 5, 2), 8
    assert coarse.H is not None
    fine = coarse.finer(parts)
    assert fine.H is not None
    w, H = (x.unflatten(0, (3, parts)) for x in (fine.w, fine.H))
    assert torch.allclose(w.sum(1), coarse.w, atol=1e-14)
    left = w.cumsum(1) - w
    assert torch.allclose((left + w / 2 + H).mean(1) - coarse.w / 2, coarse.H, atol=1e-14)


@pytest.mark.parametrize("known", [True, False], ids=["W and H", "W alone"])
def test_finer_path_is_brownian(known: bool) -> None:
    """Means, variances and covariances of W and H of neighbouring steps, within and across those of the coarse path."""
    coarse, parts = drawn(2, 50_000), 2
    fine = (coarse if known else Path(coarse.w)).finer(parts)
    assert fine.H is not None and fine.is_brownian
    d = fine.step
    z = torch.cat([fine.w / d**0.5, fine.H / (d / 12) ** 0.5])[..., 0].T
    products = z[:, :, None] * z[:, None] - torch.eye(z.shape[1], dtype=torch.float64)
    assert largest_z(torch.cat([z, products.flatten(1)], 1)) <= 5


@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_noise_of_another_variance_has_an_infinite_error(factor: float) -> None:
    path, y = drawn(8, 500), torch.zeros(500, 1, dtype=torch.float64)
    assert path.H is not None
    assert ADDITIVE.error(y, path) < math.inf
    assert ADDITIVE.error(y, Path(factor * path.w, path.H)) == math.inf
    assert ADDITIVE.error(y, Path(path.w, factor * path.H)) == math.inf


# ---- solutions


@pytest.mark.parametrize(
    ("problem", "name", "order"),
    [
        (MULTIPLICATIVE, "sosri", 1.5),
        (MULTIPLICATIVE, "slow_rk", 1.5),
        (ADDITIVE, "sra1", 1.5),
        (ADDITIVE, "general_shark", 1.5),
        (SHEARS, "heun", 0.5),
        (SHEARS, "log_ode", 1.0),
    ],
    ids=lambda x: getattr(x, "name", x),
)
def test_errors_fall_with_the_order_so_solutions_are_right(problem: Any, name: str, order: float) -> None:
    entry = next(entry for entry in sde.entries(problem) if entry.method.name == name)
    assert entry.order == order
    errors = []
    for steps in (4, 16) if problem is SHEARS else (8, 32):
        answer = sde.ours(entry, 400, steps, CPU)()
        errors.append(problem.error(answer.y, answer.path()))
    assert abs(math.log(errors[0] / errors[1], 4) - order) < 0.2


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)
def test_every_method_is_within_the_bound_and_an_answer_off_by_a_quarter_is_not(problem: Any) -> None:
    case = sde.precision(problem, 16, CPU, 200)
    for contender in case.contenders:
        if contender.role == "ours":
            answer = contender.run()
            assert case.error(answer) <= case.tolerance, contender.name
            assert not case.error(answer._replace(y=1.25 * answer.y)) <= case.tolerance
            assert not case.error(answer._replace(y=math.nan * answer.y)) <= case.tolerance


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)
def test_torchsde_is_judged_along_its_own_path(problem: Any) -> None:
    pytest.importorskip("torchsde")
    for peer in TORCHSDE:
        if (order := peer.order_for(problem.structure)) is not None:
            answers = [torchsde_solve(peer, problem, 300, steps, CPU)() for steps in (8, 32)]
            errors = [problem.error(in_double(answer.y), answer.path()) for answer in answers]
            assert abs(math.log(errors[0] / errors[1], 4) - order) < 0.3, peer


@pytest.mark.slow
def test_diffrax_is_judged_along_its_own_path() -> None:
    pytest.importorskip("diffrax")
    from benchmarks.workloads.sde_peers import diffrax_solve

    peer = next(peer for peer in DIFFRAX if peer.name == "Midpoint")
    errors = []
    for steps in (8, 32):
        answer = diffrax_solve(peer, MULTIPLICATIVE, 200, steps)()
        errors.append(MULTIPLICATIVE.error(in_double(answer.y).reshape(200, -1), answer.path()))
    assert abs(math.log(errors[0] / errors[1], 4) - 1.0) < 0.3


def test_evaluations_of_torchsde_are_those_that_it_makes() -> None:
    """A derivative along a direction counts as one of the diffusion."""
    pytest.importorskip("torchsde")
    for problem in PROBLEMS:
        for peer in TORCHSDE:
            if peer.order_for(problem.structure) is None:
                continue
            calls, f, g = [0], Theirs.f, Theirs.g

            def counted(function: Any, calls: list[int] = calls) -> Any:
                def call(*args: Any) -> Any:
                    calls[0] += 1
                    return function(*args)

                return call

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(Theirs, "f", counted(f))
                patch.setattr(Theirs, "g", counted(g))
                torchsde_solve(peer, problem, 2, 8, CPU)()
            derivatives = {"milstein": 1, "log_ode": 2}.get(peer.name, 0)
            assert abs(calls[0] / 8 + derivatives - peer.evaluations) <= 0.5, (problem.name, peer, calls)


# ---- what is measured


def test_every_sde_method_is_measured_on_a_problem_that_it_claims() -> None:
    measured = {entry.method.name for problem in PROBLEMS for entry in sde.entries(problem)}
    assert measured == {
        name for (kind, name), method in METHODS.items() if kind == "sde" and method.made_for != "Langevin"
    }


def test_cases_are_made_without_the_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("diffrax", "jax", "torchsde"):
        monkeypatch.setitem(sys.modules, package, None)
    assert all(case.contenders for case in sde.cases(CPU))


def test_every_method_is_compiled_once_in_each_calculus() -> None:
    cases = list(sde.compiled_cases(CPU))
    assert all(case.slow for case in cases) and len({case.name for case in cases}) == len(cases)
    measured = [method for (kind, _), method in METHODS.items() if kind == "sde"]
    expected = {(method.name, c) for method in measured for c in method.calculus}
    heads = {case.row.head.split(",")[0] for case in cases if case.row is not None}
    assert {name for name, _ in expected} == {head.split(" ")[0] for head in heads}
    # one for each calculus where it makes a difference
    assert sum(head.startswith("milstein (") for head in heads) == 2


def test_a_difference_between_compiled_and_eager_solves_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sde, "MANY", 5)
    case = next(iter(sde.compiled_cases(CPU)))
    y = case.contenders[0].run()
    assert case.error(y) == 0
    changed = y.clone()
    changed[3] *= 1 + 1e-6
    assert case.error(changed) > case.tolerance
    assert not case.error(math.nan * y) <= case.tolerance


def test_neural_midpoint_is_judged_by_midpoint() -> None:
    case = neural_sde.case(1 / 8, "1/8", CPU, "midpoint")
    heun = neural_sde.case(1 / 8, "1/8", CPU)
    right = case.contenders[0].run()
    assert case.error(right) <= case.tolerance < case.error(heun.contenders[0].run())


def test_midpoint_reference_converges_to_the_stratonovich_solution() -> None:
    n = 1024
    w = torch.randn(n, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64) / n**0.5
    steps = torch.full((n,), 1 / n, dtype=torch.float64)
    y = stratonovich_midpoint(torch.zeros_like, lambda y: y, torch.ones(8, dtype=torch.float64), steps, w)
    assert relative_error(y, w.sum(0).exp()) < 5e-3


# ---- tables and charts


def curve(errors: list[float], evaluations: int = 3) -> Curve:
    points = [Point(n, 10, evaluations * n, 1e-3 * n, e) for n, e in zip((8, 16, 32), errors, strict=True)]
    return Curve("one", "ours", 1.0, points)


@pytest.mark.parametrize("order", [0.5, 1.0, 1.5])
def test_slope_of_a_power_is_its_exponent(order: float) -> None:
    assert curve([n**-order for n in (8, 16, 32)]).slope == pytest.approx(order)
    assert curve([1e-15, 1e-16, 1e-16]).slope is None


@pytest.mark.parametrize(("steps", "beyond"), [(20.0, False), (8.0, False), (4.0, True), (100.0, True)])
def test_work_for_an_error_lies_on_the_line_through_the_points(steps: float, beyond: bool) -> None:
    found = curve([n**-1.5 for n in (8, 16, 32)]).work_for(steps**-1.5, lambda point: point.evaluations)
    assert found is not None
    assert found[0] == pytest.approx(3 * steps) and found[1] == beyond


def test_errors_that_do_not_fall_tell_no_work() -> None:
    assert curve([1e-3, 2e-3, 3e-3]).work_for(1e-4, lambda point: point.evaluations) is None


def small() -> Workload:
    """Two methods of orders 1 and 1/2, one that is missing and one that raises; and a row of a table."""

    def contender(name: str, error: float, role: Any = "ours", **options: Any) -> Contender:
        return Contender(name, role, lambda: error, **options)

    def at(steps: int) -> Case:
        what = Precision("some noise", 10, steps, 1e-3)
        contenders = [
            contender("slow", steps**-0.5, evaluations=2 * steps, order=0.5),
            contender("fast", 1 / steps, "peer", evaluations=3 * steps, order=1.0),
            contender("absent", 1.0, "peer", needs="no_such_package_at_all"),
            Contender("bad", "ours", lambda: 1 / 0),
        ]
        return Case(str(what), contenders, float, "E|X - X^h|", 10.0, precision=what)

    def row(head: str) -> Case:
        pair = [contender("eager", 0.0), contender("compiled", 1e-12, compiled=True)]
        return Case(head, pair, float, "difference", 1e-9, row=Row("Compiled and eager", head), slow=True)

    return Workload("sde", "made up", lambda device: [*map(at, (4, 8, 16)), row("first"), row("second")])


def test_page_tells_slopes_work_and_what_was_not_measured() -> None:
    text = page(as_json(run_workloads([small()], 1), {"date": "today"}))
    section = text.partition("## Error against work")[2]
    lines = [line for line in section.splitlines() if line.startswith(("| fast", "| slow"))]
    # ranked by evaluations: 3/h with h = goal, and 2/h with h = goal^2
    assert lines[0].startswith("| fast | 1 | 1.00 | 0.062 | ~3,000 |")
    assert lines[1].startswith("| slow | 0.5 | 0.50 | 0.25 | ~2,000,000 |")
    assert "- absent: not installed at 16 steps" in section and "- bad: error at 16 steps: ZeroDivisionError" in section
    assert "### sde: some noise" not in text
    rows = section.partition("### Compiled and eager")[2]
    assert "| first |" in rows and "| 1.0e-12 | agrees |" in rows


def test_quick_run_leaves_out_what_is_slow() -> None:
    assert len(run_workloads([small()], 1, quick=True).records) == 3
    assert len(run_workloads([small()], 1).records) == 5


def test_a_chart_is_drawn_for_each_problem(tmp_path: File) -> None:
    pytest.importorskip("matplotlib")
    figures = as_json(run_workloads([small()], 1), {"date": "today"})
    assert [diagram.file for diagram in diagrams(figures)] == ["work_precision_some_noise.png"]
    assert [path.name for path in plot(figures, tmp_path)] == ["work_precision_some_noise.png"]
    assert (tmp_path / "work_precision_some_noise.png").stat().st_size > 1000


def test_answers_are_pairs_of_an_end_and_a_path() -> None:
    answer = sde.ours(sde.entries(ADDITIVE)[0], 3, 4, CPU)()
    assert isinstance(answer, Answer) and answer.y.shape == (3, 1) and answer.path().w.shape == (4, 3, 1)
