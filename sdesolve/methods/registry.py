"""All methods by name."""

from __future__ import annotations

from sdesolve.errors import message
from sdesolve.methods.auto import AUTO
from sdesolve.methods.esdirk_tableaus import STIFF
from sdesolve.methods.euler_maruyama import EULER_MARUYAMA
from sdesolve.methods.explicit import EXPLICIT
from sdesolve.methods.exponential import EXPONENTIAL
from sdesolve.methods.exponential_adams import EXPONENTIAL_ADAMS
from sdesolve.methods.implicit import IMPLICIT
from sdesolve.methods.implicit_additive import ESDIRK_SRA
from sdesolve.methods.langevin import LANGEVIN
from sdesolve.methods.log_ode import LOG_ODE
from sdesolve.methods.method import Method
from sdesolve.methods.milstein import DERIVATIVE_FREE_MILSTEIN, MILSTEIN
from sdesolve.methods.platen import PLATEN
from sdesolve.methods.reversible import REVERSIBLE
from sdesolve.methods.rosenbrock_tableaus import ROSENBROCK
from sdesolve.methods.stochastic_tableaus import STOCHASTIC
from sdesolve.methods.stratonovich_heun import STRATONOVICH_HEUN
from sdesolve.methods.stratonovich_tableaus import STRATONOVICH
from sdesolve.methods.symplectic import SYMPLECTIC
from sdesolve.methods.table import as_table
from sdesolve.methods.tamed_euler import TAMED_EULER
from sdesolve.methods.weak_tableaus import WEAK
from sdesolve.problem import CALCULI, NOISES

#: every method by (kind of problem, name)
METHODS: dict[tuple[str, str], Method] = {
    (method.problem, method.name): method
    for method in (
        *EXPLICIT,
        *ROSENBROCK,
        AUTO,
        EULER_MARUYAMA,
        TAMED_EULER,
        MILSTEIN,
        DERIVATIVE_FREE_MILSTEIN,
        *STOCHASTIC,
        *IMPLICIT,
        ESDIRK_SRA,
        STRATONOVICH_HEUN,
        *STRATONOVICH,
        LOG_ODE,
        PLATEN,
        *WEAK,
        *REVERSIBLE,
        *LANGEVIN,
        *EXPONENTIAL,
        *STIFF,
        *EXPONENTIAL_ADAMS,
        *SYMPLECTIC,
    )
}

#: what the table can be narrowed down to
PROBLEMS = ("ode", "sde", "langevin", "semilinear", "hamiltonian")

#: those of them that have neither noise nor calculus
NOISELESS = ("ode", "hamiltonian")


def names(problem: str, made_for: str | None = None) -> list[str]:
    """Names of the methods for ``"ode"`` or ``"sde"``: those for any such problem, and behind them those that are made
    for one of a kind, as ``"Langevin"``."""
    found = [method for method in METHODS.values() if method.problem == problem]
    return [method.name for wanted in dict.fromkeys((None, made_for)) for method in found if method.made_for == wanted]


def made_for(kind: str) -> list[str]:
    """Names of the methods for problems of one kind alone, as ``"Langevin"``."""
    return list(dict.fromkeys(method.name for method in METHODS.values() if method.made_for == kind))


def table(problem: str | None = None, *, noise: str | None = None, calculus: str | None = None) -> str:
    """All methods as aligned tables in Markdown: calculus, noise, orders, whether steps can adapt, evaluations of drift
    and diffusion a step, what it asks of the path, source.

    Parameters
    ----------
    problem : those for ``"ode"`` or ``"sde"``, or those that are made for ``"langevin"``, ``"semilinear"`` or
        ``"hamiltonian"`` problems, which all methods for additive noise (where there is none: all for ODEs) solve as
        well; default: all.
    noise, calculus : SDE methods for this noise and in this calculus; default: any.

    Raises
    ------
    ValueError : an unknown problem, noise or calculus; noise or calculus of ODEs.

    >>> "sosri" in table("sde", noise="diagonal", calculus="ito")
    True
    """
    for argument, got, accepted in (
        ("problem", problem, PROBLEMS),
        ("noise", noise, NOISES),
        ("calculus", calculus, CALCULI),
    ):
        if got not in (None, *accepted):
            raise ValueError(message(argument, repr(got), f"{', '.join(map(repr, accepted))} or None"))
    if noise or calculus:
        if problem in NOISELESS:
            raise ValueError(message("problem", f"{problem!r} with noise or calculus", "'sde' or None with these"))
        problem = problem or "sde"
    return as_table(
        [
            method
            for method in METHODS.values()
            if problem in (None, method.problem, (method.made_for or "").lower())
            and (noise is None or noise in method.noise)
            and (calculus is None or calculus in method.calculus)
        ]
    )
