"""All methods by name, and the choice of one for a problem."""

from __future__ import annotations

from sdesolve.errors import message
from sdesolve.methods.euler_maruyama import EULER_MARUYAMA
from sdesolve.methods.explicit import EXPLICIT
from sdesolve.methods.implicit import IMPLICIT, ImplicitEuler, ImplicitMilstein
from sdesolve.methods.implicit_additive import ESDIRK_SRA, ImplicitAdditive
from sdesolve.methods.method import Increments, Method, State, Step
from sdesolve.methods.milstein import MILSTEIN
from sdesolve.methods.reversible import REVERSIBLE, Coupled
from sdesolve.methods.runge_kutta import RungeKutta, Tableau
from sdesolve.methods.stochastic_tableaus import STOCHASTIC
from sdesolve.methods.stratonovich_heun import STRATONOVICH_HEUN
from sdesolve.methods.stratonovich_tableaus import STRATONOVICH
from sdesolve.methods.table import as_table
from sdesolve.methods.tamed_euler import TAMED_EULER
from sdesolve.problem import SDE
from sdesolve.system import System

__all__ = [
    "METHODS",
    "Coupled",
    "ImplicitAdditive",
    "ImplicitEuler",
    "ImplicitMilstein",
    "Increments",
    "Method",
    "RungeKutta",
    "State",
    "Step",
    "Tableau",
    "choose",
    "names",
    "table",
]

#: every method by (kind of problem, name)
METHODS: dict[tuple[str, str], Method] = {
    (method.problem, method.name): method
    for method in (
        *EXPLICIT,
        EULER_MARUYAMA,
        TAMED_EULER,
        STRATONOVICH_HEUN,
        *STRATONOVICH,
        MILSTEIN,
        *STOCHASTIC,
        *IMPLICIT,
        ESDIRK_SRA,
        *REVERSIBLE,
    )
}


def table(problem: str | None = None) -> str:
    """All methods, or those for ``"ode"`` or ``"sde"``, as a table in Markdown: calculus, noise, orders, whether steps
    can adapt, evaluations of drift and diffusion a step, source.

    >>> "sosri" in table("sde")
    True
    """
    if problem not in (None, "ode", "sde"):
        raise ValueError(message("problem", repr(problem), "'ode', 'sde' or None"))
    return as_table([method for method in METHODS.values() if problem in (None, method.problem)])


def names(problem: str) -> list[str]:
    """Names of the methods for ``"ode"`` or ``"sde"``."""
    return [name for kind, name in METHODS if kind == problem]


def choose(system: System, method: str | Method | None) -> Method:
    """The method object for what the user asked for, checked against what the problem is.

    Default: ``tsit5`` for an ODE; ``sosra`` for an SDE with additive noise; otherwise ``heun`` for a Stratonovich SDE,
    and for an Ito SDE ``sosri`` where the noise is diagonal or scalar, ``euler_maruyama`` where it is general.
    """
    kind = "sde" if system.is_sde else "ode"
    if method is None:
        method = _default(system)
    if isinstance(method, str):
        found = METHODS.get((kind, method))
        if found is None:
            other = METHODS.get(("ode" if kind == "sde" else "sde", method))
            advice = f"{method!r} is for {other.problem.upper()}s." if other else ""
            raise ValueError(
                message("method", repr(method), f"one for an {kind.upper()}: {', '.join(names(kind))}", advice)
            )
        method = found
    elif not isinstance(method, Method):
        raise TypeError(
            message("method", type(method).__name__, f"a name ({', '.join(names(kind))}) or a method object")
        )
    if method.problem != kind:
        raise ValueError(
            message(
                "method",
                f"{method.name!r}, a method for {method.problem.upper()}s",
                f"one for an {kind.upper()}",
            )
        )
    if kind == "sde":
        _check_noise(system, method)
    return method


def _default(system: System) -> str:
    if not system.is_sde:
        return "tsit5"
    if system.additive:
        return "sosra"
    if system.calculus == "stratonovich":
        return "heun"
    return "euler_maruyama" if system.noise == "general" else "sosri"


def _commutes(system: System) -> bool:
    """Whether the noise is commutative by its form, or by what the problem says."""
    sde = system.problem
    return system.noise != "general" or system.additive or (isinstance(sde, SDE) and sde.commutative)


def _able(system: System, calculus: bool) -> list[str]:
    """Methods for the system's noise, and also for its calculus."""
    return [
        method.name
        for method in METHODS.values()
        if method.problem == "sde"
        and system.noise in method.noise
        and (system.additive or not method.additive_only)
        and (_commutes(system) or not method.commutative_only)
        and (system.calculus in method.calculus or not calculus)
    ]


def _check_noise(system: System, method: Method) -> None:
    if system.noise not in method.noise:
        raise ValueError(
            message(
                "method",
                f"{method.name!r} for noise={system.noise!r}",
                f"{method.name!r} with noise " + " or ".join(map(repr, method.noise)),
                f"For {system.noise!r} noise there are: {', '.join(_able(system, calculus=False))}.",
            )
        )
    if method.additive_only and not system.additive:
        raise ValueError(
            message(
                "method",
                f"{method.name!r} for an SDE without additive=True",
                f"{method.name!r} with additive=True",
                "If the diffusion does not depend on y, say additive=True in the SDE; otherwise there are: "
                f"{', '.join(_able(system, calculus=True))}.",
            )
        )
    if method.commutative_only and not _commutes(system):
        raise ValueError(
            message(
                "method",
                f"{method.name!r} for an SDE with noise='general' and neither commutative=True nor additive=True",
                f"{method.name!r} with commutative noise",
                "If sum_i g_ij dg_kl/dy_i = sum_i g_il dg_kj/dy_i for all columns j and l, say commutative=True in the "
                f"SDE; otherwise there are: {', '.join(_able(system, calculus=True))}.",
            )
        )
    # without dependence on y both integrals are the same
    if system.calculus not in method.calculus and not system.additive:
        raise ValueError(
            message(
                "method",
                f"{method.name!r} for an SDE with calculus={system.calculus!r}",
                f"{method.name!r} with calculus={method.calculus[0]!r}",
                f"Write method={_able(system, calculus=True)[0]!r}, or solve "
                f"sde.to_calculus({method.calculus[0]!r}), which is the same process; if the diffusion does not depend "
                "on y, say additive=True.",
            )
        )
