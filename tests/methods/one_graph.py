"""A step inside a compiled loop, as a solve with compile=True takes it, without the time of a code generator."""

import torch
from torch._higher_order_ops.while_loop import while_loop

from sdesolve.methods import Increments, State


def assert_steps_are_one_graph(method, system, y, inc):
    """Two steps in one graph are the eager ones, with their error estimates where there are any."""
    estimates = method.error_order is not None
    kept = len(method.init(system, inc.t0, y))
    present = [part is not None for part in inc]

    def step(y, cache, inc):
        found = method.step(system, State(y, tuple(cache)), inc, error=estimates)
        y1 = found.state.y
        if found.failed is not None:
            y1 = torch.where(system.spec.expand(found.failed), torch.nan, y1)
        return y1, found.state.cache, found.error if estimates else torch.zeros_like(y1)

    def body(k, y, total, *rest):
        cache, parts = rest[:kept], rest[kept:]
        given = iter(parts)
        y1, cache1, error = step(y, cache, Increments(*(next(given) if there else None for there in present)))
        return k + 1, y1, total + error, *cache1, *(part.clone() for part in parts)

    def loop(y, *parts):
        cache = (x.clone() for x in method.init(system, parts[0], y))
        first = torch.zeros((), dtype=torch.int64), y, torch.zeros_like(y), *cache, *parts
        return while_loop(lambda k, *_: k < 2, body, first)[1:3]

    torch.compiler.reset()
    with torch.no_grad():
        parts = [part.clone() for part in inc if part is not None]
        whole = torch.compile(loop, backend="aot_eager", fullgraph=True)(y, *parts)
        cache, total = method.init(system, inc.t0, y), torch.zeros_like(y)
        for _ in range(2):
            y, cache, error = step(y, cache, inc)
            total = total + error
    assert y.isfinite().all()
    assert torch.allclose(whole[0], y, rtol=1e-13)
    assert torch.allclose(whole[1], total, rtol=1e-13, atol=1e-14)
