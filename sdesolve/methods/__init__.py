"""How one step is taken, one file a family; all methods by name, and the choice of one for a problem."""

from sdesolve.methods.auto import Auto
from sdesolve.methods.choice import choose, default
from sdesolve.methods.esdirk_tableaus import ESDIRK54, TRBDF2, BackwardEuler, KenCarp4, Kvaerno3
from sdesolve.methods.implicit import ImplicitEuler, ImplicitMilstein
from sdesolve.methods.implicit_additive import ImplicitAdditive
from sdesolve.methods.method import Increments, Method, State, Step, Switches
from sdesolve.methods.milstein import Milstein
from sdesolve.methods.registry import METHODS, NOISELESS, PROBLEMS, made_for, names, table
from sdesolve.methods.reversible import Coupled
from sdesolve.methods.rosenbrock import Rosenbrock
from sdesolve.methods.runge_kutta import RungeKutta, Tableau

__all__ = [
    "ESDIRK54",
    "METHODS",
    "NOISELESS",
    "PROBLEMS",
    "TRBDF2",
    "Auto",
    "BackwardEuler",
    "Coupled",
    "ImplicitAdditive",
    "ImplicitEuler",
    "ImplicitMilstein",
    "Increments",
    "KenCarp4",
    "Kvaerno3",
    "Method",
    "Milstein",
    "Rosenbrock",
    "RungeKutta",
    "State",
    "Step",
    "Switches",
    "Tableau",
    "choose",
    "default",
    "made_for",
    "names",
    "table",
]
