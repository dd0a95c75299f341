"""The explicit Runge-Kutta methods for ODEs: their coefficients and where these stand."""

from __future__ import annotations

from sdesolve.methods.dop853 import DOP853
from sdesolve.methods.dopri5 import DOPRI5
from sdesolve.methods.printed import floats
from sdesolve.methods.runge_kutta import RungeKutta, Tableau
from sdesolve.methods.verner import VERN7

EULER = RungeKutta("euler", 1, Tableau(((),), (1.0,), (0.0,)), "Euler 1768")

MIDPOINT = RungeKutta(
    "midpoint",
    2,
    Tableau(((), (0.5,)), (0.0, 1.0), (0.0, 0.5), lower=(1.0, 0.0), lower_order=1),
    "Runge 1895; Hairer, Norsett & Wanner I (II.1.4)",
)

HEUN = RungeKutta(
    "heun",
    2,
    Tableau(((), (1.0,)), (0.5, 0.5), (0.0, 1.0), lower=(1.0, 0.0), lower_order=1),
    "Heun 1900; Hairer, Norsett & Wanner I, II.1",
)

RALSTON = RungeKutta(
    "ralston",
    2,
    Tableau(((), (2 / 3,)), (0.25, 0.75), (0.0, 2 / 3), lower=(1.0, 0.0), lower_order=1),
    "Ralston 1962, Math. Comp. 16:431",
)

RK4 = RungeKutta(
    "rk4",
    4,
    Tableau(((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)), floats("1/6 1/3 1/3 1/6"), (0.0, 0.5, 0.5, 1.0)),
    "Kutta 1901; Hairer, Norsett & Wanner I, table II.1.2",
)

BOSH3 = RungeKutta(
    "bosh3",
    3,
    Tableau(
        ((), floats("1/2"), floats("0 3/4"), floats("2/9 1/3 4/9")),
        floats("2/9 1/3 4/9 0"),
        floats("0 1/2 3/4 1"),
        lower=floats("7/24 1/4 1/3 1/8"),
        lower_order=2,
    ),
    "Bogacki & Shampine 1989, Appl. Math. Lett. 2:321",
)


def _tsit5() -> Tableau:
    b = (
        0.09646076681806523,
        0.01,
        0.4798896504144996,
        1.379008574103742,
        -3.290069515436081,
        2.324710524099774,
        0.0,
    )
    difference = (
        -0.00178001105222577714,
        -0.0008164344596567469,
        0.007880878010261995,
        -0.1447110071732629,
        0.5823571654525552,
        -0.45808210592918697,
        1 / 66,
    )

    def quartic(scale: float, linear: float, p: float, q: float) -> tuple[float, ...]:
        """scale theta (linear + theta) (theta^2 + p theta + q), or scale theta^2 (...) for linear = 0."""
        return scale * linear * q, scale * (q + linear * p), scale * (p + linear), scale

    def product(scale: float, first: float, second: float) -> tuple[float, ...]:
        """scale theta^2 (theta - first) (theta - second)."""
        return quartic(scale, 0.0, -first - second, first * second)

    return Tableau(
        (
            (),
            (0.161,),
            (-0.008480655492356989, 0.335480655492357),
            (2.8971530571054935, -6.359448489975075, 4.3622954328695815),
            (5.325864828439257, -11.748883564062828, 7.4955393428898365, -0.09249506636175525),
            (
                5.86145544294642,
                -12.92096931784711,
                8.159367898576159,
                -0.071584973281401,
                -0.028269050394068383,
            ),
            b[:6],
        ),
        b,
        (0.0, 0.161, 0.327, 0.9, 0.9800255409045097, 1.0, 1.0),
        lower=tuple(weight + gap for weight, gap in zip(b, difference, strict=True)),
        lower_order=4,
        dense=(
            quartic(-1.0530884977290216, -1.3299890189751412, -1.4364028541716351, 0.7139816917074209),
            quartic(0.1017, 0.0, -2.1966568338249754, 1.2949852507374631),
            quartic(2.490627285651252793, 0.0, -2.38535645472061657, 1.57803468208092486),
            product(-16.54810288924490272, 1.21712927295533244, 0.61620406037800089),
            product(47.37952196281928122, 1.203071208372362603, 0.658047292653547382),
            product(-34.87065786149660974, 1.2, 0.666666666666666667),
            product(2.5, 1.0, 0.6),
        ),
    )


TSIT5 = RungeKutta("tsit5", 5, _tsit5(), "Tsitouras 2011, Comput. Math. Appl. 62:770, table 1 and section 4")

EXPLICIT = (EULER, MIDPOINT, HEUN, RALSTON, RK4, BOSH3, TSIT5, DOPRI5, VERN7, DOP853)
