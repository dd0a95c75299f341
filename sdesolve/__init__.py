"""Stochastic and ordinary differential equations in PyTorch.

sde = ss.SDE(drift=lambda t, y: -y, diffusion=lambda t, y: 0.3 * torch.ones_like(y), additive=True)
sol = ss.solve(sde, torch.ones(1000, 2), torch.linspace(0, 1, 11), dt=0.01, seed=0)
"""

from sdesolve import errors, methods, testing
from sdesolve.adjoint import Backsolve, Checkpoint, Direct, Reversible
from sdesolve.brownian import BrownianPath
from sdesolve.errors import CompileError, SolveError, SolveInterrupted
from sdesolve.event import Event
from sdesolve.hamiltonian import Hamiltonian
from sdesolve.langevin import Langevin
from sdesolve.problem import ODE, SDE, Problem, time_reversed
from sdesolve.semilinear import Semilinear
from sdesolve.solution import Occurrences, Solution, Stats, Status
from sdesolve.solve import solve
from sdesolve.split import SplitODE
from sdesolve.state import batch_time
from sdesolve.step_size import PID

__version__ = "0.1.0"

__all__ = [
    "ODE",
    "PID",
    "SDE",
    "Backsolve",
    "BrownianPath",
    "Checkpoint",
    "CompileError",
    "Direct",
    "Event",
    "Hamiltonian",
    "Langevin",
    "Occurrences",
    "Problem",
    "Reversible",
    "Semilinear",
    "Solution",
    "SolveError",
    "SolveInterrupted",
    "SplitODE",
    "Stats",
    "Status",
    "batch_time",
    "errors",
    "methods",
    "solve",
    "testing",
    "time_reversed",
]
