"""Coefficients of the stochastic Runge-Kutta methods of weak order 2, see `weak_runge_kutta`.

DRI1   Debrabant & Roessler (2009), Families of efficient second order Runge-Kutta methods for the weak
       approximation of Ito stochastic differential equations, Appl. Numer. Math. 59:582, arXiv:1303.5103. Its
       weights gamma_w (there beta3) are multiplied by 6/7, as these areas have to have them.
RS1    Roessler (2007), Second order Runge-Kutta methods for Stratonovich stochastic differential equations, BIT
       47:657. Of four stages of the drift, two are at y and one is not read.
"""

from __future__ import annotations

from math import sqrt

from sdesolve.methods.weak_runge_kutta import WeakRungeKutta, WeakTableau

_NODE = 342 / 491
_OWN = 3 * sqrt(38 / 491)
_PLACE = sqrt(491 / 38) / 6
_FIRST, _SECOND = 214 / 513 * sqrt(1105 / 991), 491 / 513 * sqrt(221 / 4955)
_PUBLISHED = 4955 / 7072
_SHARE = sqrt(4955 / 221) / 8

DRI1_TABLEAU = WeakTableau(
    A0=((), (1 / 2,), (-1.0, 2.0)),
    B0=((), ((6 - sqrt(6)) / 10,), ((3 + 2 * sqrt(6)) / 5,)),
    alpha=(1 / 6, 2 / 3, 1 / 6),
    c=(0.0, _NODE, _NODE),
    B1=((), (_OWN,), (-_OWN,)),
    B3=((), (), ()),
    beta_w=(193 / 684, 491 / 1368, 491 / 1368),
    beta_kk=(0.0, _PLACE, -_PLACE),
    B2=((), (-_FIRST, -_SECOND, -_SECOND), (_FIRST, _SECOND, _SECOND)),
    gamma_w=(-6 / 7 * _PUBLISHED, 3 / 7 * _PUBLISHED, 3 / 7 * _PUBLISHED),
    gamma_0=(0.0, -_SHARE, _SHARE),
)

RS1_TABLEAU = WeakTableau(
    A0=((), (1.0,)),
    B0=((), (1 / 4, 3 / 4)),
    alpha=(1 / 2, 1 / 2),
    c=(0.0, 0.0, 1.0, 1.0),
    B1=((), (2 / 3,), (1 / 12, 1 / 4), (-5 / 4, 1 / 4, 2.0)),
    B3=((), (), (1 / 4, 3 / 4), (1 / 4, 3 / 4)),
    beta_w=(1 / 8, 3 / 8, 3 / 8, 1 / 8),
    beta_kk=(),
    B2=((), (1.0,), (-1.0,)),
    gamma_w=(),
    gamma_0=(0.0, 1 / 4, -1 / 4),
)

WEAK = (
    WeakRungeKutta(
        "dri1",
        DRI1_TABLEAU,
        "ito",
        "Debrabant & Roessler 2009, Appl. Numer. Math. 59:582, arXiv:1303.5103, DRI1; gamma_w by 6/7",
    ),
    WeakRungeKutta("rs1", RS1_TABLEAU, "stratonovich", "Roessler 2007, BIT 47:657, Table 5.2"),
)
