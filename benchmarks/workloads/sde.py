"""Every SDE method that is registered: error against work, beside torchsde and diffrax, compiled beside eager, and the
cost of a midpoint step.

What a method claims is asked of the method, so one that is added is measured. Errors are E|X_1 - X_1^h| in float64,
each answer along its own path. Where a method reads Levy areas between channels, it runs along a path of which finer
cells are known with theirs, and takes its time for them; torchsde's log_ode draws areas that are none of its path.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
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
from sdesolve.methods import METHODS, Method, choose, made_for
from sdesolve.state import state_spec
from sdesolve.system import System

CPU = torch.device("cpu")

PATHS = {"multiplicative": 4000, "additive": 4000, "non-commutative": 1000}

#: of the runs in which compiled and eager solves are compared
MANY, LONG = 10_000, 64
AGREE = 1e-9

#: turns of a contender: there are hundreds
TURNS = 2


@dataclass(frozen=True, eq=False)
class Entry:
    """A method, a problem that it claims, and the equation as it takes it."""

    method: Method
    problem: Problem
    calculus: str
    equation: ss.SDE

    @property
    def title(self) -> str:
        """The method's name, with the calculus where it makes a difference."""
        one = len(self.method.calculus) == 1 or self.problem.structure == "additive"
        return self.method.name if one else f"{self.method.name} ({self.calculus})"

    @property
    def order(self) -> float:
        return self.method.strong_order_for(self.problem.structure)

    @property
    def reads_areas(self) -> bool:
        """Whether its strong error is that of the areas between channels that it is given."""
        general = self.problem.noise == "general" and self.problem.structure != "additive"
        return general and self.method.levy == "davie-foster"

    def solve(self, paths: int, steps: int, device: torch.device = CPU, **options: Any) -> ss.Solution:
        """With fixed steps, in float64."""
        given = options if "brownian" in options else {"seed": 0, **options}
        y0 = torch.tensor(self.problem.start, dtype=torch.float64, device=device).repeat(paths, 1)
        ts = torch.tensor([0.0, 1.0], dtype=torch.float64, device=device)
        with torch.no_grad():
            # where the two solutions of a reversible method draw apart, the error tells
            return ss.solve(self.equation, y0, ts, dt=1 / steps, method=self.method, on_failure="return", **given)

    @cached_property
    def evaluations(self) -> tuple[int, int] | None:
        """Of the first step and of each that follows, as the solver counts them; None if it fails, of which the
        measurement will tell."""
        try:
            stats = [self.solve(2, steps).stats for steps in (2, 3)]
        except Exception:
            return None
        two, three = (int((s.drift_evaluations + s.diffusion_evaluations).max()) for s in stats)
        return two - (three - two), three - two

    def evaluations_along(self, steps: int) -> int | None:
        return None if self.evaluations is None else self.evaluations[0] + (steps - 1) * self.evaluations[1]


@cache
def entries(problem: Problem) -> tuple[Entry, ...]:
    """All methods that solve a problem, in each calculus; for additive noise both are the same."""
    found = []
    for (kind, _), method in METHODS.items():
        if kind == "sde":
            one = problem.structure == "additive"
            for calculus in method.calculus[:1] if one else method.calculus:
                equation = next((form for form in problem.forms(calculus) if _claims(method, form, problem)), None)
                if equation is not None:
                    found.append(Entry(method, problem, calculus, equation))
    return tuple(found)


def _claims(method: Method, equation: ss.SDE, problem: Problem) -> bool:
    y0 = torch.tensor([problem.start], dtype=torch.float64)
    try:
        choose(System(equation, state_spec(y0, True)[0]), method)
    except ValueError:
        return False
    return True


def ours(entry: Entry, paths: int, steps: int, device: torch.device) -> Callable[[], Answer]:
    """A solve, and its path."""
    problem, areas = entry.problem, entry.reads_areas
    cell = 1 / (steps * (problem.finer if areas else 1))
    levy = "davie-foster" if areas else "space-time"

    def path() -> ss.BrownianPath:
        shape = (paths, problem.channels)
        return ss.BrownianPath(0, shape, cell=cell, levy=levy, dtype=torch.float64, device=device)

    def increments() -> Path:
        found = path().increments(0, round(1 / cell))
        assert isinstance(found, Increment) and found.w is not None and found.H is not None
        area = None if found.area is None else in_double(found.area)
        return Path(in_double(found.w), in_double(found.H), area)

    def run() -> Answer:
        given = {"brownian": path()} if areas else {}
        return Answer(entry.solve(paths, steps, device, **given).ys[-1], increments)

    return run


def precision(problem: Problem, steps: int, device: torch.device, paths: int | None = None) -> Case:
    """All methods with so many steps."""
    paths = paths or PATHS[problem.name]
    contenders = [
        Contender(
            f"sdesolve {entry.title}",
            "ours",
            ours(entry, paths, steps, device),
            turns=TURNS,
            evaluations=entry.evaluations_along(steps),
            order=entry.order,
        )
        for entry in entries(problem)
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


def compiled(head: str, end: Callable[[bool], Tensor]) -> Case:
    """A method's compiled solve beside the eager one, on the same path, in float64. end : y(1), compiled or not."""
    eager = cache(lambda: in_double(end(False)))

    def error(y: Any) -> float:
        return float((in_double(y) - eager()).abs().max() / eager().abs().max())

    row = Row(f"Compiled and eager, {MANY:,} paths x {LONG} steps, float64", head)
    return Case(
        str(row),
        [
            Contender("eager", "ours", partial(end, False)),
            Contender("compiled", "ours", partial(end, True), compiled=True),
        ],
        error,
        "largest difference to the eager solve, relative to the largest component",
        AGREE,
        row=row,
        slow=True,
    )


def compiled_cases(device: torch.device) -> Iterator[Case]:
    """Every method in every calculus on the first problem that it solves."""
    seen: set[tuple[str, str]] = set()
    for entry in (entry for problem in PROBLEMS for entry in entries(problem)):
        if (entry.method.name, entry.calculus) not in seen:
            seen.add((entry.method.name, entry.calculus))
            yield compiled(f"{entry.title}, {entry.problem.name}", partial(_end, entry, device))
    for name in made_for("Langevin"):
        yield compiled(f"{name}, Langevin, double well", partial(_langevin_end, name, device))


def _end(entry: Entry, device: torch.device, compile: bool) -> Tensor:
    return entry.solve(MANY, LONG, device, compile=compile).ys[-1]


def _force(x: Tensor) -> Tensor:
    """Of the potential (x^2 - 1)^2."""
    return 4 * x * (1 - x * x)


def _langevin_end(name: str, device: torch.device, compile: bool) -> Tensor:
    x = torch.ones(MANY, 1, dtype=torch.float64, device=device)
    ts = torch.tensor([0.0, 1.0], dtype=torch.float64, device=device)
    langevin = ss.Langevin(force=_force, gamma=1.0, temperature=0.5)
    with torch.no_grad():
        ys = ss.solve(langevin, (x, 0 * x), ts, method=name, dt=1 / LONG, seed=0, compile=compile).ys
    return torch.cat([part[-1] for part in ys], -1)


def cases(device: torch.device) -> Sequence[Case]:
    found = [precision(problem, steps, device) for problem in PROBLEMS for steps in problem.steps]
    return [*found, neural_sde.case(1 / 128, "1/128", device, "midpoint"), *compiled_cases(device)]


WORKLOAD = Workload("sde", "all SDE methods: error against work, compiled beside eager, a midpoint step", cases)
