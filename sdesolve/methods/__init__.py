"""All methods by name, and the choice of one for a problem."""

from __future__ import annotations

from sdesolve.errors import message
from sdesolve.langevin import Langevin
from sdesolve.methods.euler_maruyama import EULER_MARUYAMA
from sdesolve.methods.explicit import EXPLICIT
from sdesolve.methods.langevin import LANGEVIN
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
        *REVERSIBLE,
        *LANGEVIN,
    )
}

#: kinds of problems, and how messages call them
_KINDS = {"ode": "ODE", "sde": "SDE", "langevin": "ss.Langevin problem"}


def table(problem: str | None = None) -> str:
    """All methods, or those for ``"ode"``, ``"sde"`` or ``"langevin"``, as a table in Markdown: calculus, noise,
    orders, whether steps can adapt, evaluations of drift and diffusion a step, source.

    >>> "sosri" in table("sde")
    True
    """
    if problem not in (None, *_KINDS):
        raise ValueError(message("problem", repr(problem), f"{', '.join(map(repr, _KINDS))} or None"))
    return as_table([method for method in METHODS.values() if problem in (None, method.problem)])


def names(problem: str) -> list[str]:
    """Names of the methods for ``"ode"``, ``"sde"`` or ``"langevin"``."""
    return [name for kind, name in METHODS if kind == problem]


def choose(system: System, method: str | Method | None) -> Method:
    """The method object for what the user asked for, checked against what the problem is.

    Default: ``tsit5`` for an ODE; ``baoab`` for Langevin dynamics; ``sosra`` for another SDE with additive noise;
    otherwise ``heun`` for a Stratonovich SDE, and for an Ito SDE ``sosri`` where the noise is diagonal or scalar,
    ``euler_maruyama`` where it is general.
    """
    kinds = _kinds(system)
    if method is None:
        method = _default(system)
    able = ", ".join(name for kind in kinds for name in names(kind))
    if isinstance(method, str):
        found = [METHODS[kind, method] for kind in kinds if (kind, method) in METHODS]
        if not found:
            others = [_KINDS[kind] for kind in _KINDS if (kind, method) in METHODS]
            advice = f"{method!r} is for {others[0]}s." if others else ""
            raise ValueError(message("method", repr(method), f"one for an {_KINDS[kinds[0]]}: {able}", advice))
        method = found[0]
    elif not isinstance(method, Method):
        raise TypeError(message("method", type(method).__name__, f"a name ({able}) or a method object"))
    if method.problem not in kinds:
        got = f"{method.name!r}, a method for {_KINDS[method.problem]}s"
        raise ValueError(message("method", got, f"one for an {_KINDS[kinds[0]]}"))
    if method.problem == "sde":
        _check_noise(system, method)
    return method


def _kinds(system: System) -> tuple[str, ...]:
    """Of methods that could treat the problem, those that are made for it first."""
    if isinstance(system.problem, Langevin):
        return "langevin", "sde"
    return ("sde",) if system.is_sde else ("ode",)


def _default(system: System) -> str:
    if not system.is_sde:
        return "tsit5"
    if isinstance(system.problem, Langevin):
        return "baoab"
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
