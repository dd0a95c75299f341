"""The explicit stochastic Runge-Kutta methods for Stratonovich SDEs, and those for additive noise that use its
space-time Levy area: their coefficients and where these stand."""

from __future__ import annotations

from math import sqrt

from sdesolve.methods.shifted import Shifted
from sdesolve.methods.stratonovich_runge_kutta import StratonovichRungeKutta, StratonovichTableau, Weights

EULER = Weights(b=(1.0,), bw=(1.0,))

EULER_HEUN = StratonovichRungeKutta(
    "euler_heun",
    StratonovichTableau(
        a=(),
        aw=((), (1.0,)),
        c=(0.0, 1.0),
        weights=Weights(b=(1.0,), bw=(0.5, 0.5)),
    ),
    "Kloeden & Platen 1992, section 4.9 and (11.1.8) without its correction of the drift",
    strong=(0.5, 1.0, 1.0),
    weak=(1.0, 1.0, 1.0),
)

MIDPOINT = StratonovichRungeKutta(
    "midpoint",
    StratonovichTableau(
        a=((), (0.5,)),
        aw=((), (0.5,)),
        c=(0.0, 0.5),
        weights=Weights(b=(0.0, 1.0), bw=(0.0, 1.0)),
        lower=EULER,
    ),
    "Ruemelin 1982, SIAM J. Numer. Anal. 19:604",
    strong=(0.5, 1.0, 1.0),
    # half of W shows the drift a quarter of its variance, where half of it is due
    weak=(1.0, 1.0, 1.0),
)

GENERAL_SHARK = StratonovichRungeKutta(
    "general_shark",
    StratonovichTableau(
        a=((), (), (0.0, 5 / 6)),
        aw=((), (), (0.0, 5 / 6)),
        ah=((), (1.0,), (1.0,)),
        c=(0.0, 0.0, 5 / 6),
        weights=Weights(b=(0.0, 0.4, 0.6), bw=(0.0, 0.4, 0.6), bh=(0.0, 1.2, -1.2)),
        lower=Weights(b=(0.0, 1.0), bw=(0.0, 1.0)),
    ),
    "Foster, dos Reis & Strange 2023, arXiv:2210.17543, (6.1)",
    strong=(0.5, 1.0, 1.5),
)

SLOW_RK = StratonovichRungeKutta(
    "slow_rk",
    StratonovichTableau(
        a=((), (0.5,), (0.5,), (0.5,), (0.5,), (0.75,), (1.0,)),
        aw=((), (), (0.0, 0.5), (0.0, 0.0, 0.5), (0.0, 0.0, 0.0, 1.0), (0.0, 0.0, 0.0, 0.75), (0.0, 0.0, 0.5)),
        ah=((), (), (), (), (), (0.0, 0.0, 0.0, 1.5), ()),
        c=(0.0, 0.5, 0.5, 0.5, 0.5, 0.75, 1.0),
        weights=Weights(
            b=(1 / 3, 0.0, 0.0, 0.0, 0.0, 2 / 3),
            bw=(0.0, 1 / 6, 1 / 3, 1 / 3, 1 / 6),
            bh=(0.0, 0.0, 0.0, 2.0, 0.0, 0.0, -2.0),
        ),
        lower=Weights(b=(1.0,), bw=(0.0, 0.0, 1.0)),
    ),
    "Foster, dos Reis & Strange 2023, arXiv:2210.17543, (6.2)",
    strong=(0.5, 1.5, 1.5),
    weak=(1.0, 2.0, 2.0),
    error_order=1.5,
)

_OUTER, _INNER = (3 - sqrt(3)) / 6, 1 / sqrt(3)

SPARK = StratonovichRungeKutta(
    "spark",
    StratonovichTableau(
        a=((), (0.5,), (0.0, 1.0)),
        aw=((), (0.5,), (0.0, 1.0)),
        ah=((), (sqrt(3),), ()),
        c=(0.0, 0.5, 1.0),
        weights=Weights(b=(_OUTER, _INNER, _OUTER), bw=(_OUTER, _INNER, _OUTER), bh=(1.0, 0.0, -1.0)),
        lower=Weights(b=(0.5, 0.0, 0.5), bw=(0.5, 0.0, 0.5)),
    ),
    "Foster & Jelincic 2024, arXiv:2311.14201, definition 1.6",
    strong=(0.5, 1.0, 1.5),
    error_order=1.5,
)

SEA = Shifted(
    "sea",
    a=((),),
    aw=(0.5,),
    b=(1.0,),
    c=(0.0,),
    order=1.0,
    source="Foster, dos Reis & Strange 2023, arXiv:2210.17543, (5.8)",
)

SHARK = Shifted(
    "shark",
    a=((), (5 / 6,)),
    aw=(0.0, 5 / 6),
    b=(0.4, 0.6),
    c=(0.0, 5 / 6),
    order=1.5,
    source="Foster, dos Reis & Strange 2023, arXiv:2210.17543, (6.1)",
)

STRATONOVICH = (EULER_HEUN, MIDPOINT, GENERAL_SHARK, SLOW_RK, SPARK, SEA, SHARK)
