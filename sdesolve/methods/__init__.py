"""How one step is taken, one file a family; all methods by name, and the choice of one for a problem."""

from sdesolve.methods.choice import choose, default
from sdesolve.methods.implicit import ImplicitEuler, ImplicitMilstein
from sdesolve.methods.implicit_additive import ImplicitAdditive
from sdesolve.methods.method import Increments, Method, State, Step
from sdesolve.methods.milstein import Milstein
from sdesolve.methods.registry import METHODS, NOISELESS, PROBLEMS, made_for, names, table
from sdesolve.methods.reversible import Coupled
from sdesolve.methods.runge_kutta import RungeKutta, Tableau

__all__ = [
    "METHODS",
    "NOISELESS",
    "PROBLEMS",
    "Coupled",
    "ImplicitAdditive",
    "ImplicitEuler",
    "ImplicitMilstein",
    "Increments",
    "Method",
    "Milstein",
    "RungeKutta",
    "State",
    "Step",
    "Tableau",
    "choose",
    "default",
    "made_for",
    "names",
    "table",
]
