"""The pair of orders 5 and 4 of Dormand and Prince, with Shampine's continuous extension of order 4."""

from __future__ import annotations

from sdesolve.methods.printed import dense_weights, float_rows, floats, read_row, read_rows
from sdesolve.methods.runge_kutta import RungeKutta, Tableau

C = read_row("0 1/5 3/10 4/5 8/9 1 1")
B = read_row("35/384 0 500/1113 125/192 -2187/6784 11/84 0")
A = (
    *read_rows(
        """
        ;
        1/5;
        3/40 9/40;
        44/45 -56/15 32/9;
        19372/6561 -25360/2187 64448/6561 -212/729;
        9017/3168 -355/33 46732/5247 49/176 -5103/18656
        """
    ),
    B[:-1],
)

#: the weights of order 4
LOWER = read_row("5179/57600 0 7571/16695 393/640 -92097/339200 187/2100 1/40")

#: by stages, for the last term of the continuous extension
D = read_rows(
    """
    -12715105075/11282082432 0 87487479700/32700410799 -10690763975/1880347072 701980252875/199316789632
    -1453857185/822651844 69997945/29380423
    """
)
DENSE = dense_weights(B, len(B) - 1, D)

DOPRI5 = RungeKutta(
    "dopri5",
    5,
    Tableau(float_rows(A), floats(B), floats(C), lower=floats(LOWER), lower_order=4, dense=float_rows(DENSE)),
    "Dormand & Prince 1980; Hairer, Norsett & Wanner I, table II.5.2, (II.6.12)",
)
