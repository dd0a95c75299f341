"""Drift-implicit methods for stiff SDEs: the theta methods of Euler and Milstein.

    y_1 = y + h ((1 - theta) f(t, y) + theta f(t_1, y_1)) + g(t, y) W
            [ + 1/2 sum_jk (dg_k/dy g_j) (W_j W_k - delta_jk h) ]

theta in [1/2, 1]; the term in brackets is Milstein's, without delta_jk h in Stratonovich. For f = lambda y the drift
takes y to R(z) y, z = lambda h, with R(z) = (1 + (1 - theta) z) / (1 - theta z): |R| <= 1 wherever Re z <= 0, and R
tends to 1 - 1/theta. So theta = 1 (backward Euler) damps what is stiff in one step, theta = 1/2 (the trapezoidal rule)
does not.
The diffusion stays explicit: where it is stiff itself, |dg/dy|^2 h large, these methods are not stable.
"""

from __future__ import annotations

from torch import Tensor

from sdesolve.errors import message
from sdesolve.methods.method import Increments, Method, State, Step
from sdesolve.methods.milstein import derivative_evaluations, derivative_terms
from sdesolve.methods.newton import DIFFERENTIABLE, Root, root
from sdesolve.system import System


class Theta(Method):
    """What both methods share: options, and the implicit part of a step, with first and second derivatives."""

    problem, may_fail = "sde", True
    theta: float
    iterations: int

    def __init__(self, theta: float = 1.0, iterations: int = 8) -> None:
        if not (isinstance(theta, (int, float)) and 0.5 <= theta <= 1):
            raise ValueError(message("theta", repr(theta), "a number in [1/2, 1]", "1 damps stiff components most."))
        self.theta, self.iterations = float(theta), checked(iterations)
        self.drift_evaluations = iterations + DIFFERENTIABLE + (self.theta < 1)
        self.diffusion_evaluations = 1

    def _explicit(self, system: System, state: State, inc: Increments) -> tuple[Tensor, Tensor | None]:
        """y + (1 - theta) h f(t, y), and f(t, y) if it was asked for."""
        if self.theta == 1:
            return state.y, None
        f = system.drift(inc.t0, state.y)
        return state.y + ((1 - self.theta) * inc.h) * f, f

    def _implicit(self, system: System, state: State, inc: Increments, a: Tensor) -> Root:
        """y_1 = a + theta h f(t_1, y_1)."""
        return root(system, inc.t1, a, self.theta * inc.h, state.y, self.iterations)


class ImplicitEuler(Theta):
    """Drift-implicit Euler: strong order 1/2 (1 for additive noise), weak order 1 (for additive noise
    and theta = 1/2 it is 2); Ito, any noise.

    theta : weight of the end of the step, in [1/2, 1]. iterations : Newton corrections a step, before the last two.
    Fixed steps alone: the sizes of adaptive steps depend on W, to which only methods that hold the W^2 of Milstein
    converge (Gaines & Lyons 1997, SIAM J. Appl. Math. 57:1455).
    """

    name = "implicit_euler"
    order, order_additive, weak_order = 0.5, 1.0, 1.0
    calculus, noise = ("ito",), ("diagonal", "scalar", "general")
    source = "Kloeden & Platen 1992, section 12.2"

    def __init__(self, theta: float = 1.0, iterations: int = 8) -> None:
        super().__init__(theta, iterations)
        self.weak_order_additive = 2.0 if self.theta == 0.5 else None

    def step(self, system: System, state: State, inc: Increments, *, error: bool = False, dense: bool = False) -> Step:
        assert inc.w is not None
        start, _ = self._explicit(system, state, inc)
        a = start + system.noise_term(system.diffusion(inc.t0, state.y), inc.w)
        found = self._implicit(system, state, inc, a)
        return Step(State(found.z), failed=found.failed)


class ImplicitMilstein(Theta):
    """Drift-implicit Milstein: strong and weak order 1; Ito and Stratonovich; diagonal, scalar, and commutative (so
    additive) general noise.

    theta : weight of the end of the step, in [1/2, 1]. iterations : Newton corrections a step, before the last two.

    The error is the difference to theta - 1/2 in the drift and the trapezoidal rule in the diffusion,
    1/2 (f_1 - f) h + 1/2 (g_1 - g) W - 1/2 sum_jk (dg_k/dy g_j) W_j W_k, times (I - theta h df/dy)^-1: what is stiff is
    damped in it as in the step (Hosea & Shampine 1996, Appl. Numer. Math. 20:21, for ODEs).
    """

    name = "implicit_milstein"
    order, weak_order, error_order = 1.0, 1.0, 1.5
    calculus, noise = ("ito", "stratonovich"), ("diagonal", "scalar", "general")
    commutative_only = True
    general_diffusion_evaluations = 1, 1
    source = "Kloeden & Platen 1992, section 12.2"

    def __init__(self, theta: float = 1.0, iterations: int = 8) -> None:
        super().__init__(theta, iterations)
        self.diffusion_evaluations = 2
        self.error_drift_evaluations, self.error_diffusion_evaluations = int(self.theta == 1), 1

    def evaluations_of_diffusion(self, system: System, channels: int, *, error: bool = False) -> int:
        return derivative_evaluations(self, system, channels, error)

    def step(self, system: System, state: State, inc: Increments, *, error: bool = False, dense: bool = False) -> Step:
        y, h, w = state.y, inc.h, inc.w
        assert w is not None
        start, f = self._explicit(system, state, inc)
        g = system.diffusion(inc.t0, y)
        noise = system.noise_term(g, w)
        square, trace = derivative_terms(system, inc, y, g)
        a = start + noise + 0.5 * square
        if trace is not None:
            a = a - (0.5 * h) * trace
        found = self._implicit(system, state, inc, a)
        if not error:
            return Step(State(found.z), failed=found.failed)
        f = system.drift(inc.t0, y) if f is None else f
        noise1 = system.noise_term(system.diffusion(inc.t1, found.z), w)
        difference = found.change / self.theta - h * f + noise1 - noise - square
        return Step(State(found.z), 0.5 * found.linear.solve(difference), found.failed)


def checked(iterations: int) -> int:
    """The option, one at least."""
    if not isinstance(iterations, int) or isinstance(iterations, bool) or iterations < 1:
        raise ValueError(
            message(
                "iterations", repr(iterations), "an int, 1 at least", "A linear drift needs 2, others mostly 3 to 8."
            )
        )
    return iterations


IMPLICIT = (ImplicitEuler(), ImplicitMilstein())
