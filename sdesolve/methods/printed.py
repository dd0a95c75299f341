"""Tables of coefficients as they are printed: read exactly, and rounded once, when all is computed."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from sdesolve.methods.runge_kutta import unnested

Row = tuple[Fraction, ...]


def read_row(text: str) -> Row:
    """The numbers ``"1/5"``, ``"0.2"``, ``"2e-1"`` between blanks."""
    return tuple(map(Fraction, text.split()))


def read_rows(text: str) -> tuple[Row, ...]:
    """The rows between semicolons."""
    return tuple(map(read_row, text.split(";")))


def floats(row: Row | str) -> tuple[float, ...]:
    """A row, or the numbers of a printed one, rounded."""
    return tuple(map(float, read_row(row) if isinstance(row, str) else row))


def float_rows(rows: Sequence[Row]) -> tuple[tuple[float, ...], ...]:
    """Rows, rounded."""
    return tuple(map(floats, rows))


def filled(rows: Sequence[Row]) -> tuple[Row, ...]:
    """Rows of one length, with zeros behind the shorter ones."""
    width = max(map(len, rows))
    return tuple((*row, *(Fraction(0),) * (width - len(row))) for row in rows)


def dense_weights(b: Row, last: int, others: Sequence[Row]) -> tuple[Row, ...]:
    """For each stage the coefficients of theta, theta^2, ... of its weight in the continuous extension

        y + theta (D + (1 - theta) (R + theta (S + (1 - theta) (Q_1 + theta (Q_2 + (1 - theta) (Q_3 + ...))))))
        D = h sum b k,      R = h k_1 - D,      S = 2 D - h (k_1 + k_last),      Q_j = h sum_i d_ji k_i

    whose slopes are k_1 at theta = 0 and k_last, f at the end of the step, at theta = 1 (Hairer, Norsett & Wanner I,
    II.6). ``others`` are the rows d_j.
    """
    found = []
    for i, weight in enumerate(b):
        first, end = Fraction(i == 0), Fraction(i == last)
        factors = (weight, first - weight, 2 * weight - first - end, *(row[i] for row in others))
        found.append(unnested(factors))
    return tuple(found)


def nested(powers: Row) -> Row:
    """`unnested` backwards: the factors F of  theta (F_0 + (1 - theta) (F_1 + theta (F_2 + ...))),  given its
    coefficients of theta, theta^2, ..."""
    factors: list[Fraction] = []
    rest = powers
    while rest:
        if len(factors) % 2:
            factors.append(rest[0])
            rest = rest[1:]
        else:
            # q(theta) = q(1) + (1 - theta) r(theta)
            factors.append(sum(rest, Fraction(0)))
            rest = tuple(-sum(rest[k:], Fraction(0)) for k in range(1, len(rest)))
    return tuple(factors)
