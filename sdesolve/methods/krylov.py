"""GMRES for a linear system a trajectory, from matrix-vector products alone (Saad & Schultz 1986, SIAM J. Sci. Stat.
Comput. 7:856):

    x_m in span(r, A r, ..., A^(m-1) r)  with the least  |r - A x_m|,      |v| = rms(v / scale)

Arnoldi's vectors V are orthonormal in the scaled product, by Gram-Schmidt taken twice;  A V_m = V_m+1 H.  One rotation
a vector (Givens) makes Q H = R upper triangular, which gives the residual without x:  |r - A x_m| = |r| |(Q e_1)_m+1|,
and in the end  x_m = V_m R^-1 |r| Q e_1.  Trajectories do not read each other: one that is done rests, with zeros.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._higher_order_ops.while_loop import while_loop

#: of Arnoldi, at most; what is left then, another cycle may begin with
VECTORS = 40
#: rounding units of |A| |x|, below which no residual comes
ROUNDING = 10

#: v to A v, both (batch, n)
Product = Callable[[Tensor], Tensor]


class Solved(NamedTuple):
    """x : (batch, n); NaN where A or the right side is not finite. residual : |r - A x|, (batch,). vectors : (batch,)
    products that were taken. size : (batch,) a lower bound of |A|, mostly close."""

    x: Tensor
    residual: Tensor
    vectors: Tensor
    size: Tensor


def gmres(product: Product, right: Tensor, scale: Tensor, tolerance: Tensor, most: int = VECTORS) -> Solved:
    """The solution x of A x = r from 0, up to a residual of ``tolerance`` or as far as ``most`` vectors lead; one
    vector at least, where r is not 0.

    right : (batch, n). scale : positive, of this shape. tolerance : (batch,) of |r - A x|.
    """
    n, batch = right.shape[1], len(right)
    most = min(most, n)
    place = torch.arange(most + 1, device=right.device)
    first = right / scale
    start = torch.linalg.vector_norm(first, dim=1)
    good = start.isfinite()
    begin = good & (start > 0)
    bound = torch.maximum(tolerance * n**0.5, start * torch.finfo(right.dtype).eps)
    eye = torch.eye(most + 1, dtype=right.dtype, device=right.device)
    # rows that are not known yet are read in compiled code alone
    empty = torch.zeros if torch.compiler.is_compiling() else torch.empty
    basis = empty(most + 1, batch, n, dtype=right.dtype, device=right.device)
    basis = _put(basis, 0, torch.where(begin[:, None], first / start[:, None], 0.0))

    def step(
        j: Any, basis: Tensor, turn: Tensor, triangle: Tensor, left: Tensor, going: Tensor, vectors: Tensor
    ) -> tuple[Tensor, ...]:
        """The next vector. turn, triangle : Q, (batch, most + 1, most + 1), and R, (batch, most, most)."""
        w = torch.where(going[:, None], product(_row(basis, 0, j) * scale) / scale, 0.0)
        w, h = _orthogonal(basis if isinstance(j, Tensor) else basis[: j + 1], w)
        length = torch.linalg.vector_norm(w, dim=1)
        on = going & length.isfinite() & h.isfinite().all(0)
        at, below = place == j, place == j + 1
        h = torch.where(below, length[:, None], torch.nn.functional.pad(h.T, (0, most + 1 - len(h))))
        column = (turn * h[:, None]).sum(-1)
        c, s, diagonal = _rotation(_row(column, 1, j), length)
        upper, lower = _row(turn, 1, j), _row(turn, 1, j + 1)
        turned = torch.where(at[:, None], (c * upper + s * lower)[:, None], turn)
        turned = torch.where(below[:, None], (c * lower - s * upper)[:, None], turned)
        column = torch.where(at, diagonal, torch.where(below, 0.0, column))[:, :most, None]
        now = on[:, None, None]
        left = torch.where(on, left * s[:, 0].abs(), left)
        further = on & (left > bound)
        v = torch.where((further & (length > 0))[:, None], w / length[:, None], 0.0)
        return (
            _put(basis, j + 1, v),
            torch.where(now, turned, turn),
            torch.where(now & at[:most], column, triangle),
            torch.where(going & ~on, torch.nan, left),
            further & (length > 0),
            vectors + going,
        )

    held = basis, _each(eye, batch), _each(eye[:most, :most], batch), start, begin, torch.zeros_like(start).long()
    basis, turn, triangle, left, _, vectors = loop(most, lambda *held: held[4], step, held)
    weights = torch.where(place[:most] < vectors[:, None], start[:, None] * turn[:, :most, 0], 0.0)
    used = most if torch.compiler.is_compiling() else int(vectors.max())
    weights = _back_substituted(triangle[:, :used, :used], weights[:, :used])
    x = scale * _combined(torch.zeros_like(first), weights.T, basis[:used])
    size = torch.linalg.vector_norm(triangle, dim=1).amax(1)
    bad = ~(good & left.isfinite())
    return Solved(torch.where(bad[:, None], torch.nan, x), left * n**-0.5, vectors, size)


class Restarted(NamedTuple):
    """x : (batch, n). solved : (batch,) whether the residual is below the tolerance, or as small as rounding lets it
    be. products : (batch,)."""

    x: Tensor
    solved: Tensor
    products: Tensor


def restarted(product: Product, right: Tensor, scale: Tensor, tolerance: Tensor, cycles: int) -> Restarted:
    """The same in so many cycles at most, each from where the last one ended."""

    def cycle(k: Any, x: Tensor, rest: Tensor, going: Tensor, solved: Tensor, products: Tensor) -> tuple[Tensor, ...]:
        found = gmres(product, torch.where(going[:, None], rest, 0.0), scale, tolerance)
        x = torch.where(going[:, None], x + found.x, x)
        rest = right - product(x)
        left = mean_square(rest / scale)
        attained = ROUNDING * torch.finfo(x.dtype).eps * found.size * mean_square(x / scale)
        close = going & (left <= torch.maximum(tolerance, attained))
        more = going & ~close & left.isfinite()
        return x, rest, more, solved | close, products + torch.where(going, found.vectors + 1, 0)

    going = torch.ones_like(tolerance, dtype=torch.bool)
    held = torch.zeros_like(right), right.clone(), going, ~going, torch.zeros_like(tolerance).long()
    x, _, _, solved, products = loop(cycles, lambda *held: held[2], cycle, held)
    return Restarted(x, solved, products)


def loop(
    most: int, going: Callable[..., Tensor], body: Callable[..., tuple[Tensor, ...]], held: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    """``held = body(k, *held)`` for k = 0, 1, ..., at most so often, as long as anyone is going, (batch,)."""
    if torch.compiler.is_compiling():
        start = torch.zeros((), dtype=torch.int64, device=held[0].device), *held
        more = lambda k, *held: (k < most) & going(*held).any()
        return tuple(while_loop(more, lambda k, *held: (k + 1, *body(k, *held)), start))[1:]
    for k in range(most):
        if not bool(going(*held).any()):
            break
        held = body(k, *held)
    return held


def _orthogonal(basis: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """w less its projection on the basis, (vectors, batch, n), and what that was, (vectors, batch). Twice is enough
    (Giraud, Langou, Rozloznik & van den Eshof 2005, Numer. Math. 101:87)."""
    total = torch.zeros_like(basis[..., 0])
    for _ in range(2):
        h = (basis * w).sum(-1)
        w = _combined(w, -h, basis)
        total = total + h
    return w, total


def _combined(first: Tensor, weights: Tensor, basis: Tensor) -> Tensor:
    """The sum of a first and of weighted vectors, (batch, n); weights : (vectors, batch). One by one: the order, so the
    last bit, is then the same for every batch size."""
    if torch.compiler.is_compiling():
        return first + (weights[..., None] * basis).sum(0)
    for weight, v in zip(weights, basis, strict=True):
        first = torch.addcmul(first, weight[:, None], v)
    return first


def _back_substituted(triangle: Tensor, right: Tensor) -> Tensor:
    """R^-1 r, (batch, used). LAPACK's last bit depends on where in memory a matrix of the batch begins."""
    if torch.compiler.is_compiling():
        return torch.linalg.solve_triangular(triangle, right[..., None], upper=True)[..., 0]
    found: list[Tensor] = []
    for j in reversed(range(right.shape[1])):
        found.insert(0, right[:, j] / triangle[:, j, j])
        right = torch.addcmul(right, triangle[:, :, j], found[0][:, None], value=-1)
    return torch.stack(found, 1) if found else right


def _rotation(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """c, s and the length of (a, b), (batch, 1), with  (c a + s b, c b - s a) = (length, 0).  Where both are 0 A is
    singular, and the vector is left out: c = 0 gives it the weight 0."""
    length = torch.hypot(a, b)
    there = length > 0
    safe = torch.where(there, length, 1.0)
    c, s = torch.where(there, a / safe, 0.0), torch.where(there, b / safe, 1.0)
    return c[:, None], s[:, None], safe[:, None]


def _row(x: Tensor, dim: int, j: Any) -> Tensor:
    """x[j] along a dimension, for a number or a 0-d tensor j."""
    return x.index_select(dim, j.reshape(1)).squeeze(dim) if isinstance(j, Tensor) else x.select(dim, j)


def _put(basis: Tensor, j: Any, v: Tensor) -> Tensor:
    """The basis with v at j: written in place, but in compiled code."""
    if torch.compiler.is_compiling():
        here = torch.arange(len(basis), device=basis.device) == j
        return torch.where(here[:, None, None], v, basis)
    basis[j] = v
    return basis


def _each(matrix: Tensor, batch: int) -> Tensor:
    return matrix.expand(batch, *matrix.shape).clone()


def mean_square(x: Tensor) -> Tensor:
    """Root of the mean square of each row."""
    return torch.linalg.vector_norm(x, dim=1) * x.shape[1] ** -0.5
