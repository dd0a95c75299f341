"""The problems on which ODE solvers are compared, with their solutions at the end.

Each right-hand side is written once, for arrays and tensors (..., d) alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.integrate import solve_ivp
from torch import Tensor

Array = NDArray[np.float64]
RightHandSide = Callable[[Any, Any], Any]

TIGHTEST = {"DOP853": 1e-13, "LSODA": 1e-12}
"""Relative tolerances of references that are computed. LSODA is right to some 1e-10 then."""


@dataclass(frozen=True)
class Problem:
    """y' = f(t, y) from y0 at time 0 to time T, where y is `end`.

    scale : sizes of the components below which errors are no longer relative; a tolerance of tol stands for rtol = tol,
    atol = tol scale. source : of the problem, and of `end`.
    """

    name: str
    f: RightHandSide
    y0: tuple[float, ...]
    T: float
    end: tuple[float, ...]
    source: str
    scale: tuple[float, ...] | float = 1.0
    stiff: bool = False

    def start(self, batch: int) -> Tensor:
        return torch.tensor([self.y0] * batch, dtype=torch.float64)

    def error(self, y: Array, exact: Array | None = None) -> Array:
        """Root mean square over the components of (y - exact) / (scale + |exact|), (..., d) -> (...), by default at
        the end: the error over what it may be at tolerance 1."""
        exact = np.asarray(self.end) if exact is None else exact
        return np.sqrt(np.mean(((y - exact) / (np.asarray(self.scale) + np.abs(exact))) ** 2, axis=-1))


def joined(*parts: Any) -> Any:
    """Components (...) as (..., d)."""
    return torch.stack(parts, -1) if isinstance(parts[0], Tensor) else np.stack(parts, -1)


def reference(problem: Problem, times: Sequence[float]) -> Array:
    """(len(times), d), solutions at times in (0, T], each the end of an integration of its own from the one before."""
    method = "LSODA" if problem.stiff else "DOP853"
    t, y, found, rtol = 0.0, np.array(problem.y0), [], TIGHTEST[method]
    atol = rtol * np.broadcast_to(problem.scale, y.shape)
    for time in times:
        y = solve_ivp(problem.f, (t, time), y, method=method, rtol=rtol, atol=atol).y[:, -1]
        t = time
        found.append(y)
    return np.array(found)


def lotka_volterra(t: Any, y: Any) -> Any:
    prey, predators = y[..., 0], y[..., 1]
    return joined(1.5 * prey - prey * predators, prey * predators - 3 * predators)


def brusselator(t: Any, y: Any) -> Any:
    u, v = y[..., 0], y[..., 1]
    return joined(1 + u * u * v - 4 * u, 3 * u - u * u * v)


MOON = 0.012277471


def arenstorf(t: Any, y: Any) -> Any:
    """Position and velocity of a body in the frame that turns with earth and moon."""
    x1, x2, v1, v2 = (y[..., k] for k in range(4))
    earth, moon = x1 + MOON, x1 - (1 - MOON)
    D1, D2 = (earth**2 + x2**2) ** 1.5, (moon**2 + x2**2) ** 1.5
    pull = (1 - MOON) / D1 + MOON / D2
    return joined(v1, v2, x1 + 2 * v2 - (1 - MOON) * earth / D1 - MOON * moon / D2, x2 - 2 * v1 - x2 * pull)


MASSES = range(1, 8)


def pleiades(t: Any, y: Any) -> Any:
    """Seven stars in a plane; star k has mass k. y: their x, their y, and the velocities of both."""
    join = torch.cat if isinstance(y, Tensor) else np.concatenate
    places = y[..., :7], y[..., 7:14]
    dx, dy = (p[..., None, :] - p[..., :, None] for p in places)
    square = dx * dx + dy * dy
    mass = y.new_tensor(MASSES) if isinstance(y, Tensor) else np.array(MASSES)
    pull = mass / (square + (square == 0)) ** 1.5
    return join([y[..., 14:], (pull * dx).sum(-1), (pull * dy).sum(-1)], -1)


def robertson(t: Any, y: Any) -> Any:
    a, b, c = (y[..., k] for k in range(3))
    slow, back, fast = 0.04 * a, 1e4 * b * c, 3e7 * b * b
    return joined(back - slow, slow - back - fast, fast)


def van_der_pol(mu: Any) -> RightHandSide:
    """x'' = mu (1 - x^2) x' - x; mu : a number, or (batch,)."""

    def f(t: Any, y: Any) -> Any:
        x, v = y[..., 0], y[..., 1]
        return joined(v, mu * (1 - x * x) * v - x)

    return f


def hires(t: Any, y: Any) -> Any:
    y1, y2, y3, y4, y5, y6, y7, y8 = (y[..., k] for k in range(8))
    bound = 280 * y6 * y8 - 1.81 * y7
    return joined(
        -1.71 * y1 + 0.43 * y2 + 8.32 * y3 + 0.0007,
        1.71 * y1 - 8.75 * y2,
        -10.03 * y3 + 0.43 * y4 + 0.035 * y5,
        8.32 * y2 + 1.71 * y3 - 1.12 * y4,
        -1.745 * y5 + 0.43 * y6 + 0.43 * y7,
        -280 * y6 * y8 + 0.69 * y4 + 1.71 * y5 - 0.43 * y6 + 0.69 * y7,
        bound,
        -bound,
    )


def oregonator(t: Any, y: Any) -> Any:
    y1, y2, y3 = (y[..., k] for k in range(3))
    return joined(77.27 * (y2 + y1 * (1 - 8.375e-6 * y1 - y2)), (y3 - (1 + y1) * y2) / 77.27, 0.161 * (y1 - y3))


TEST_SET = "Mazzia & Magherini 2008, Test Set for IVP Solvers, release 2.4"

ORBIT = (0.994, 0.0, 0.0, -2.00158510637908252240537862224)

LOTKA_VOLTERRA = Problem(
    "Lotka-Volterra",
    lotka_volterra,
    (1.0, 1.0),
    10.0,
    (1.026344767575089319139, 0.9096910781360416175482),
    "prey and predators; its end: mpmath.odefun with 32 digits",
)
BRUSSELATOR = Problem(
    "Brusselator",
    brusselator,
    (1.5, 3.0),
    20.0,
    (0.4986370712683478486499, 4.596780349452011183202),
    "Hairer, Norsett & Wanner I, II.4; its end: mpmath.odefun with 32 digits",
)
ARENSTORF = Problem(
    "Arenstorf orbit",
    arenstorf,
    ORBIT,
    17.0652165601579625588917206249,
    ORBIT,
    "Hairer, Norsett & Wanner I, (II.0.1) and (II.0.2); periodic",
)
PLEIADES = Problem(
    "Pleiades",
    pleiades,
    (3, 3, -1, -3, 2, -2, 2, 3, -3, 2, 0, 0, -4, 4, 0, 0, 0, 0, 0, 1.75, -1.5, 0, 0, 0, -1.25, 1, 0, 0),
    3.0,
    (
        *(0.3706139143970502, 3.237284092057233, -3.222559032418324, 0.6597091455775310, 0.3425581707156584),
        *(1.562172101400631, -0.7003092922212495, -3.943437585517392, -3.271380973972550, 5.225081843456543),
        *(-2.590612434977470, 1.198213693392275, -0.2429682344935824, 1.091449240428980, 3.417003806314313),
        *(1.354584501625501, -2.590065597810775, 2.025053734714242, -1.155815100160448, -0.8072988170223021),
        *(0.5952396354208710, -3.741244961234010, 0.3773459685750630, 0.9386858869551073, 0.3667922227200571),
        *(-0.3474046353808490, 2.344915448180937, -1.947020434263292),
    ),
    f"Hairer, Norsett & Wanner I, (II.10.3); its end: {TEST_SET}",
)
ROBERTSON = Problem(
    "Robertson",
    robertson,
    (1.0, 0.0, 0.0),
    1e4,
    (0.107300428537815, 4.80016697257221e-7, 0.892699091445484),
    "Hairer & Wanner II, (IV.1.4); its end: SciPy Radau at 1e-12, on which LSODA agrees to 3e-11",
    scale=(1.0, 1e-5, 1.0),
    stiff=True,
)
VAN_DER_POL = Problem(
    "van der Pol, mu = 1000",
    van_der_pol(1000.0),
    (2.0, 0.0),
    2000.0,
    (1.706167732170483, -0.8928097010247975e-3),
    f"Hairer & Wanner II, (IV.1.5); its end: {TEST_SET}, in its time t / mu",
    stiff=True,
)
HIRES = Problem(
    "HIRES",
    hires,
    (1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0057),
    321.8122,
    (
        *(0.7371312573325668e-3, 0.1442485726316185e-3, 0.5888729740967575e-4, 0.1175651343283149e-2),
        *(0.2386356198831331e-2, 0.6238968252742796e-2, 0.2849998395185769e-2, 0.2850001604814231e-2),
    ),
    f"Hairer & Wanner II, IV.10; its end: {TEST_SET}",
    scale=1e-3,
    stiff=True,
)
OREGONATOR = Problem(
    "Oregonator",
    oregonator,
    (1.0, 2.0, 3.0),
    360.0,
    (1.000814870318523, 1228.178521549917, 132.0554942846706),
    f"Hairer & Wanner II, IV.10; its end: {TEST_SET}",
    stiff=True,
)

SMOOTH = (LOTKA_VOLTERRA, BRUSSELATOR, ARENSTORF, PLEIADES)
STIFF = (ROBERTSON, VAN_DER_POL, HIRES, OREGONATOR)
