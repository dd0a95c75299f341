"""An L-stable, stiffly accurate implicit Runge-Kutta method of strong order 3/2 for additive noise.

    z_i = y + h sum_j a_ij f_j + p_i int g dW + q_i g(t) H,      f_i = f(t + c_i h, z_i),      y_1 = z_4

with  int g dW = g(t) (W/2 + H) + g(t_1) (W/2 - H),  where g is a line. The tableau (a, b, c) is the implicit half of
ARK3(2)4L[2]SA (Kennedy & Carpenter 2003, Appl. Numer. Math. 44:139), which as an ODE method has order 3: stage 1 is
explicit, the others have one diagonal element gamma, and b is the last row, so that y_1 solves an implicit equation
with the whole noise in it. Where f = lambda y,  lambda h -> -infinity, nothing of y or of the noise is left in y_1.

The noise of the stages: for s_i = p_i g W + q_i g H, with Var H = h/12, strong order 3/2 asks that what f adds to a
step agrees in  f' int g W ds  to order h^(3/2), and in the mean of  1/2 f'' int (g W)^2 ds  to order h^2:

    sum b_i p_i = 1/2,      sum b_i q_i = 1,      sum b_i (p_i^2 + q_i^2 / 12) = 1/2

(the conditions of Roessler 2010, SINUM 48:922, for SRA methods, in W and H). p = c, as the noise grows in the mean,
meets the first, and turns the last into sum b_i q_i^2 = 2, as sum b_i c_i^2 = 1/3. q_4 = 0: y_1 has the noise of the
step and no other. q_1 = 0: stage 1 is f(t, y), no point off the solution. Two solutions are left for (q_2, q_3); taken
is the closer to 6 c (1 - c), the mean of a Brownian bridge given H. The error of order h^2 that a step keeps is
1/2 f'' times that of int (g W)^2 ds, whose mean square is then 0.0177 g^4 h^4: 0.0078 for any method of W and H alone,
0.0167 with the best q_1, which is -0.24, and 0.0333 for SKenCarp (Rackauckas & Nie 2020).
"""

from __future__ import annotations

from sdesolve.methods.implicit import checked
from sdesolve.methods.method import Increments, Method, State, Step, combine
from sdesolve.methods.newton import DIFFERENTIABLE, root
from sdesolve.system import System

GAMMA = 1767732205903 / 4055673282236
A = (
    (),
    (GAMMA, GAMMA),
    (2746238789719 / 10658868560708, -640167445237 / 6845629431997, GAMMA),
    (1471266399579 / 7840856788654, -4482444167858 / 7529755066697, 11266239266428 / 11593286722821, GAMMA),
)
C = (0.0, 2 * GAMMA, 0.6, 1.0)
B = A[3]
LOWER = (
    2756255671327 / 12835298489170,
    -10771552573575 / 22201958757719,
    9247589265047 / 10645013368117,
    2193209047091 / 5459859503100,
)


def _areas() -> tuple[float, float]:
    """(q_2, q_3) with b_2 q_2 + b_3 q_3 = 1 and b_2 q_2^2 + b_3 q_3^2 = 2."""
    b2, b3 = B[1], B[2]
    # (b_2 + b_3) b_3 q_3^2 - 2 b_3 q_3 + 1 - 2 b_2 = 0
    q3 = (b3 - (b3 * b3 - (b2 + b3) * b3 * (1 - 2 * b2)) ** 0.5) / ((b2 + b3) * b3)
    return (1 - b3 * q3) / b2, q3


Q = (0.0, *_areas(), 0.0)
DIFFERENCE = tuple(b - lower for b, lower in zip(B, LOWER, strict=True))


class ImplicitAdditive(Method):
    """Strong order 3/2, weak order 2, for additive noise of any form; both calculi.

    iterations : Newton corrections in each of the three implicit stages, before the last two.

    The error is the difference to the embedded weights of order 2, with g(t) W in place of int g dW, times
    (I - gamma h df/dy)^-1, which damps what is stiff in it (Hosea & Shampine 1996, Appl. Numer. Math. 20:21).
    """

    name, problem, may_fail = "esdirk_sra", "sde", True
    order = order_additive = 1.5
    weak_order = weak_order_additive = 2.0
    error_order = 1.5
    calculus, noise = ("ito", "stratonovich"), ("diagonal", "scalar", "general")
    levy, additive_only = "space-time", True
    diffusion_evaluations = 2
    source = "Kennedy & Carpenter 2003, ARK3(2)4L[2]SA, implicit part; noise of the stages: sdesolve"

    def __init__(self, iterations: int = 8) -> None:
        self.iterations = checked(iterations)
        self.drift_evaluations = 1 + 3 * (iterations + DIFFERENTIABLE)

    def step(self, system: System, state: State, inc: Increments, *, error: bool = False, dense: bool = False) -> Step:
        y, w, area = state.y, inc.w, inc.H
        assert w is not None and area is not None
        g, g1 = system.diffusion(inc.t0, y), system.diffusion(inc.t1, y)
        bent = system.noise_term(g1 - g, 0.5 * w - area)
        whole, shift = system.noise_term(g, w) + bent, system.noise_term(g, area)
        size = GAMMA * inc.h
        # gamma h f_i, of which an implicit stage gives its own
        K = [size * system.drift(inc.t0, y)]
        z, failed = y, None
        for row, c, q in zip(A[1:], C[1:], Q[1:], strict=True):
            a = y + combine(_over_gamma(row[:-1]), K) + combine((c, q), [whole, shift])
            found = root(system, inc.at(c), a, size, z, self.iterations)
            z, failed = found.z, found.failed if failed is None else failed | found.failed
            K.append(found.change)
        if not error:
            return Step(State(z), failed=failed)
        return Step(State(z), found.linear.solve(combine(_over_gamma(DIFFERENCE), K) + bent), failed)


def _over_gamma(row: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(x / GAMMA for x in row)


ESDIRK_SRA = ImplicitAdditive()
