"""All methods by name, and the choice of one for a problem."""

from __future__ import annotations

from sdesolve.errors import message
from sdesolve.methods.euler_maruyama import EULER_MARUYAMA
from sdesolve.methods.explicit import EXPLICIT
from sdesolve.methods.method import Increments, Method, State, Step
from sdesolve.methods.runge_kutta import RungeKutta, Tableau
from sdesolve.methods.stratonovich_heun import STRATONOVICH_HEUN
from sdesolve.system import System

__all__ = ["METHODS", "Increments", "Method", "RungeKutta", "State", "Step", "Tableau", "choose", "names"]

#: every method by (kind of problem, name)
METHODS: dict[tuple[str, str], Method] = {
    (method.problem, method.name): method for method in (*EXPLICIT, EULER_MARUYAMA, STRATONOVICH_HEUN)
}


def names(problem: str) -> list[str]:
    """Names of the methods for ``"ode"`` or ``"sde"``."""
    return [name for kind, name in METHODS if kind == problem]


def choose(system: System, method: str | Method | None) -> Method:
    """The method object for what the user asked for, checked against what the problem is.

    Default: ``tsit5`` for an ODE; for an SDE ``euler_maruyama`` (Ito) or ``heun`` (Stratonovich).
    """
    kind = "sde" if system.is_sde else "ode"
    if method is None:
        method = "tsit5" if kind == "ode" else "heun" if system.calculus == "stratonovich" else "euler_maruyama"
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


def _check_noise(system: System, method: Method) -> None:
    if system.noise not in method.noise:
        able = [m.name for m in METHODS.values() if m.problem == "sde" and system.noise in m.noise]
        raise ValueError(
            message(
                "method",
                f"{method.name!r} for noise={system.noise!r}",
                f"{method.name!r} with noise " + " or ".join(map(repr, method.noise)),
                f"For {system.noise!r} noise there are: {', '.join(able)}.",
            )
        )
    # without dependence on y both integrals are the same
    if system.calculus not in method.calculus and not system.additive:
        able = [
            m.name
            for m in METHODS.values()
            if m.problem == "sde" and system.calculus in m.calculus and system.noise in m.noise
        ]
        raise ValueError(
            message(
                "method",
                f"{method.name!r} for an SDE with calculus={system.calculus!r}",
                f"{method.name!r} with calculus={method.calculus[0]!r}",
                f"Write method={able[0]!r}, or solve sde.to_calculus({method.calculus[0]!r}), which is the same "
                "process; if the diffusion does not depend on y, say additive=True.",
            )
        )
