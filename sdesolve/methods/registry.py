"""All methods by name."""

from __future__ import annotations

from sdesolve.errors import message
from sdesolve.methods.euler_maruyama import EULER_MARUYAMA
from sdesolve.methods.explicit import EXPLICIT
from sdesolve.methods.exponential import EXPONENTIAL
from sdesolve.methods.log_ode import LOG_ODE
from sdesolve.methods.method import Method
from sdesolve.methods.milstein import DERIVATIVE_FREE_MILSTEIN, MILSTEIN
from sdesolve.methods.platen import PLATEN
from sdesolve.methods.reversible import REVERSIBLE
from sdesolve.methods.stochastic_tableaus import STOCHASTIC
from sdesolve.methods.stratonovich_heun import STRATONOVICH_HEUN
from sdesolve.methods.stratonovich_tableaus import STRATONOVICH
from sdesolve.methods.table import as_table
from sdesolve.methods.tamed_euler import TAMED_EULER
from sdesolve.methods.weak_tableaus import WEAK

#: every method by (kind of problem, name)
METHODS: dict[tuple[str, str], Method] = {
    (method.problem, method.name): method
    for method in (
        *EXPLICIT,
        EULER_MARUYAMA,
        TAMED_EULER,
        MILSTEIN,
        DERIVATIVE_FREE_MILSTEIN,
        *STOCHASTIC,
        STRATONOVICH_HEUN,
        *STRATONOVICH,
        LOG_ODE,
        PLATEN,
        *WEAK,
        *REVERSIBLE,
        *EXPONENTIAL,
    )
}


def names(problem: str, made_for: str | None = None) -> list[str]:
    """Names of the methods for ``"ode"`` or ``"sde"``: those for any such problem, and behind them those that are made
    for one of a kind, as ``"Langevin"``."""
    found = [method for method in METHODS.values() if method.problem == problem]
    return [method.name for wanted in dict.fromkeys((None, made_for)) for method in found if method.made_for == wanted]


def table(problem: str | None = None) -> str:
    """All methods, or those for ``"ode"`` or ``"sde"``, as a table in Markdown: calculus, noise, orders, whether steps
    can adapt, evaluations of drift and diffusion a step, source.

    >>> "sosri" in table("sde")
    True
    """
    if problem not in (None, "ode", "sde"):
        raise ValueError(message("problem", repr(problem), "'ode', 'sde' or None"))
    return as_table([method for method in METHODS.values() if problem in (None, method.problem)])
