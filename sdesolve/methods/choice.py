"""The method for a problem: the default, or what the user asked for, checked against what the problem is."""

from __future__ import annotations

from difflib import get_close_matches

from sdesolve.errors import message
from sdesolve.methods.auto import Auto
from sdesolve.methods.method import Method
from sdesolve.methods.registry import METHODS, names
from sdesolve.system import System

#: what the methods of SciPy and torchdiffeq are called here, or what serves in their place
ELSEWHERE = {
    "rk23": "bosh3",
    "rk45": "dopri5",
    "radau": "rodas5p",
    "bdf": "rodas5p",
    "lsoda": "auto",
    "dopri8": "dop853",
    "adaptive_heun": "heun",
}


def choose(system: System, method: str | Method | None, *, adaptive: bool = False) -> Method:
    """The method object for a name, a method object, or None, for which see `default`.

    adaptive : whether the steps are to adapt.

    Raises
    ------
    ValueError, TypeError : a name that does not exist, or a method that cannot treat the problem; the message lists
        those that can.
    """
    kind = "sde" if system.is_sde else "ode"
    able = ", ".join(names(kind, system.problem.kind))
    if method is None:
        method = default(system, adaptive=adaptive)
    if isinstance(method, str):
        found = METHODS.get((kind, method))
        if found is None:
            other = METHODS.get(("ode" if kind == "sde" else "sde", method))
            advice = (
                f"{method!r} is for {other.problem.upper()}s."
                if other
                else _meant(method, names(kind, system.problem.kind))
            )
            if isinstance(other, Auto):
                advice += " Where the drift is stiff, say stiff=True in the SDE: the default method is then implicit."
            raise ValueError(message("method", repr(method), f"one for an {kind.upper()}: {able}", advice))
        method = found
    elif not isinstance(method, Method):
        advice = f"Write {method.__name__}(...)." if isinstance(method, type) and issubclass(method, Method) else ""
        got = f"the class {method.__name__}" if advice else type(method).__name__
        raise TypeError(message("method", got, f"a name ({able}) or a method object", advice))
    if method.problem != kind:
        got = f"{method.name!r}, a method for {method.problem.upper()}s"
        raise ValueError(message("method", got, f"one for an {kind.upper()}"))
    if method.made_for not in (None, system.problem.kind):
        got, accepted = (
            f"{method.name!r} {what}ss.{name}"
            for what, name in (("for an ", system.problem.kind), ("with an ", method.made_for))
        )
        raise ValueError(
            message("method", got, accepted, f"Write the problem as ss.{method.made_for}, or take one of: {able}.")
        )
    if kind == "sde":
        _check_noise(system, method)
    return method


def _meant(method: str, able: list[str]) -> str:
    """What somebody may have meant by a name that does not exist."""
    name = method.lower()
    if ELSEWHERE.get(name) in able:
        return f"In place of {method!r} take {ELSEWHERE[name]!r}."
    close = get_close_matches(name, able, n=1, cutoff=0.75)
    return f"Did you mean {close[0]!r}?" if close else ""


def default(system: System, *, adaptive: bool = False) -> str:
    """The name of the method for a problem where none is given.

    ================================  ================================  ====================
    problem                           default                           with ``stiff=True``
    ================================  ================================  ====================
    Langevin                          baoab                             the same
    Semilinear                        exponential_heun                  the same
    SplitODE                          kencarp4                          the same
    Hamiltonian, fixed steps          leapfrog                          the same
    Hamiltonian, adaptive steps       tsit5                             the same
    ODE                               tsit5                             rodas5p
    SDE, additive                     sosra                             esdirk_sra
    Ito, diagonal or scalar           sosri                             implicit_milstein
    Ito, general, commutative         milstein                          implicit_milstein
    Ito, general                      euler_maruyama                    implicit_euler
    Stratonovich, commutative         slow_rk                           implicit_milstein
    Stratonovich, general             heun                              the same
    ================================  ================================  ====================

    Diagonal and scalar noise commute. It depends on what the problem says of itself, not on values, so that a
    trajectory is the same in any batch. Steps of one length keep the structure of a Hamiltonian system; where they are
    to adapt, which loses it, a method of high order takes the fewest.
    """
    kind = system.problem.kind
    made = {"Langevin": "baoab", "Semilinear": "exponential_heun", "SplitODE": "kencarp4"}
    if kind in made:
        return made[kind]
    if kind == "ODE":
        return "rodas5p" if system.problem.stiff else "tsit5"
    if kind == "Hamiltonian":
        return "tsit5" if adaptive else "leapfrog"
    stiff = bool(system.problem.stiff)
    if system.additive:
        return "esdirk_sra" if stiff else "sosra"
    if _commutes(system):
        if stiff:
            return "implicit_milstein"
        if system.calculus == "stratonovich":
            return "slow_rk"
        return "milstein" if system.noise == "general" else "sosri"
    if system.calculus == "stratonovich":
        return "heun"
    return "implicit_euler" if stiff else "euler_maruyama"


def _commutes(system: System) -> bool:
    """Whether the noise is commutative by its form, or by what the problem says."""
    return system.noise != "general" or system.additive or system.problem.commutative


def _able(system: System, calculus: bool) -> list[str]:
    """Methods for the system's noise, and also for its calculus."""
    return [
        method.name
        for method in METHODS.values()
        if method.problem == "sde"
        and method.made_for in (None, system.problem.kind)
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
                f"Write method={default(system)!r}, or solve "
                f"sde.to_calculus({method.calculus[0]!r}), which is the same process; if the diffusion does not depend "
                "on y, say additive=True.",
            )
        )
