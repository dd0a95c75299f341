"""Every SDE method that is registered: error against work, beside torchsde and diffrax, compiled beside eager, and the
cost of a midpoint step.

What a method claims is asked of the method, so one that is added is measured. Errors are E|X_1 - X_1^h| in float64,
each answer along its own path. Where a method reads Levy areas between channels, it runs along a path of which finer
cells are known with theirs, and takes its time for them; torchsde's log_ode draws areas that are none of its path.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

import sdesolve as ss
from benchmarks.reference import in_double
from benchmarks.workload import Case, Contender, Precision, Row, Workload
from benchmarks.workloads import neural_sde
from benchmarks.workloads.sde_peers import DIFFRAX, TORCHSDE, Answer, Peer, diffrax_solve, torchsde_solve
from benchmarks.workloads.sde_problems import PROBLEMS, Path, Problem
from sdesolve.brownian.levy import Increment
from sdesolve.methods import METHODS, Method, choose
from sdesolve.state import state_spec
from sdesolve.system import System

PATHS = {"multiplicative": 4000, "additive": 4000, "non-commutative": 1000}

#: of the runs in which compiled and eager solves are compared
MANY, LONG = 10_000, 64
AGREE = {torch.float64: 1e-9, torch.float32: 2e-4}

#: turns of a contender: there are hundreds
TURNS = 3


def methods(problem: Problem) -> Iterator[tuple[Method, str]]:
    """The methods that solve a problem, with the calculus; for additive noise both are the same."""
    y0 = torch.tensor([problem.start], dtype=torch.float64)
    for kind, name in METHODS:
        if kind == "sde":
            method = METHODS[kind, name]
            additive = problem.structure == "additive"
            for calculus in method.calculus[:1] if additive else method.calculus:
                if _claims(method, System(problem.sde(calculus), state_spec(y0, True)[0])):
                    yield method, calculus


def _claims(method: Method, system: System) -> bool:
    try:
        choose(system, method)
    except ValueError:
        return False
    return True


def title(method: Method, calculus: str, problem: Problem) -> str:
    """The method's name, with the calculus where it makes a difference."""
    one = len(method.calculus) == 1 or problem.structure == "additive"
    return f"sdesolve {method.name}" if one else f"sdesolve {method.name} ({calculus})"


def solve(
    method: Method, problem: Problem, calculus: str, paths: int, steps: int, device: torch.device, **options: Any
) -> ss.Solution:
    """With fixed steps."""
    dtype = options.pop("dtype", torch.float64)
    y0 = torch.tensor(problem.start, dtype=dtype, device=device).repeat(paths, 1)
    ts = torch.tensor([0.0, 1.0], dtype=dtype, device=device)
    noise = options if "brownian" in options else {"seed": 0, **options}
    with torch.no_grad():
        # where the two solutions of a reversible method draw apart, the error tells
        return ss.solve(problem.sde(calculus), y0, ts, dt=1 / steps, method=method, on_failure="return", **noise)


def reads_areas(method: Method, problem: Problem) -> bool:
    """Whether its strong error is that of the areas between channels that it is given."""
    return method.levy == "davie-foster" and problem.noise == "general" and problem.structure != "additive"


def ours(
    method: Method, problem: Problem, calculus: str, paths: int, steps: int, device: torch.device
) -> Callable[[], Answer]:
    """A solve, and its path."""
    shape, areas = (paths, problem.channels), reads_areas(method, problem)
    cell = 1 / (steps * (problem.finer if areas else 1))
    levy = "davie-foster" if areas else "space-time"

    def path() -> ss.BrownianPath:
        return ss.BrownianPath(0, shape, cell=cell, levy=levy, dtype=torch.float64, device=device)

    def increments() -> Path:
        found = path().increments(0, round(1 / cell))
        assert isinstance(found, Increment) and found.w is not None and found.H is not None
        area = None if found.area is None else in_double(found.area)
        return Path(in_double(found.w), in_double(found.H), area)

    def run() -> Answer:
        given = {"brownian": path()} if areas else {}
        return Answer(solve(method, problem, calculus, paths, steps, device, **given).ys[-1], increments)

    return run


def evaluations(method: Method, problem: Problem, calculus: str, steps: int, device: torch.device) -> int | None:
    """As the solver counts them; None if it fails, which the measurement will tell of."""
    try:
        stats = solve(method, problem, calculus, 2, steps, device).stats
    except Exception:
        return None
    return int((stats.drift_evaluations + stats.diffusion_evaluations).max())


def precision(problem: Problem, steps: int, device: torch.device, paths: int | None = None) -> Case:
    """All methods with so many steps."""
    paths = paths or PATHS[problem.name]
    contenders = [
        Contender(
            title(method, calculus, problem),
            "ours",
            ours(method, problem, calculus, paths, steps, device),
            turns=TURNS,
            evaluations=evaluations(method, problem, calculus, steps, device),
            order=method.strong_order_for(problem.structure),
        )
        for method, calculus in methods(problem)
    ]
    for peer in (*TORCHSDE, *DIFFRAX):
        if peer.order_for(problem.structure) is not None:
            contenders.append(_theirs(peer, problem, paths, steps, device))

    def error(answer: Answer) -> float:
        return problem.error(in_double(answer.y).reshape(paths, -1), answer.path())

    what = Precision(problem.name, paths, steps, problem.goal)
    bound = problem.bound * steps**-0.5
    return Case(f"{what}, {paths:,} paths, float64", contenders, error, "E|X - X^h|", bound, precision=what)


def _theirs(peer: Peer, problem: Problem, paths: int, steps: int, device: torch.device) -> Contender:
    torchs = peer.library == "torchsde"
    run = torchsde_solve(peer, problem, paths, steps, device) if torchs else diffrax_solve(peer, problem, paths, steps)
    return Contender(
        peer.label,
        "peer",
        run,
        needs=peer.library,
        cpu_only=not torchs,
        turns=TURNS,
        evaluations=steps * peer.evaluations,
        order=peer.order_for(problem.structure),
    )


def compiled(method: Method, calculus: str, problem: Problem, dtype: torch.dtype, device: torch.device) -> Case:
    """A method's compiled solve beside the eager one, on the same path."""
    run = partial(solve, method, problem, calculus, MANY, LONG, device, dtype=dtype)

    def end(compile: bool) -> Tensor:
        return run(compile=compile).ys[-1]

    eager = cache(lambda: in_double(end(False)))

    def error(y: Any) -> float:
        return float((in_double(y) - eager()).abs().max() / eager().abs().max())

    short = str(dtype).removeprefix("torch.")
    name = title(method, calculus, problem).removeprefix("sdesolve ")
    row = Row(f"Compiled and eager, {MANY:,} paths x {LONG} steps, {short}", f"{name}, {problem.name}")
    return Case(
        str(row),
        [
            Contender("eager", "ours", partial(end, False)),
            Contender("compiled", "ours", partial(end, True), compiled=True),
        ],
        error,
        "largest difference to the eager solve, relative to the largest component",
        AGREE[dtype],
        row=row,
        slow=True,
    )


def compiled_cases(device: torch.device) -> Iterator[Case]:
    """Every method in every calculus on the first problem that it solves, in both precisions."""
    for dtype in AGREE:
        seen: set[tuple[str, str]] = set()
        for problem in PROBLEMS:
            for method, calculus in methods(problem):
                if (method.name, calculus) not in seen:
                    seen.add((method.name, calculus))
                    yield compiled(method, calculus, problem, dtype, device)


def cases(device: torch.device) -> Sequence[Case]:
    found = [precision(problem, steps, device) for problem in PROBLEMS for steps in problem.steps]
    return [*found, neural_sde.case(1 / 128, "1/128", device, "midpoint"), *compiled_cases(device)]


WORKLOAD = Workload("sde", "all SDE methods: error against work, compiled beside eager, a midpoint step", cases)
