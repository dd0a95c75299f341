"""The same steps as one compiled graph: a chunk of them is a ``while_loop`` under ``torch.compile``, its noise inside.

Chunks are compiled once for each problem, method and shape of the state, and kept with the problem. Times, step sizes,
seeds, ids and parameters are inputs, so that new ones cost nothing. Forward only: autograd through ``while_loop`` loses
gradients silently, so nothing here is ever differentiated.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._higher_order_ops.while_loop import while_loop
from torch.utils import _pytree as pytree

from sdesolve.brownian.levy import Increment
from sdesolve.brownian.steps import OwnSteps
from sdesolve.brownian.window import Windows
from sdesolve.capture import Captured
from sdesolve.errors import CompileError, message
from sdesolve.fixed import FixedLoop
from sdesolve.lattice_clock import PathNoise
from sdesolve.loop import Carry, Loop
from sdesolve.methods.method import Increments, Method, State
from sdesolve.system import System

#: steps of an adaptive chunk: the host looks at the result this seldom, and Ctrl-C waits this long
CHUNK_STEPS = 500
#: fixed steps whose times are put on the device at once
TABLE_STEPS = 4096
#: normals in a block of noise inside a compiled chunk: what stays in a core's cache
BLOCK = 2**16


@dataclass
class _Fixed:
    """What a compiled chunk of fixed steps reads besides its arguments."""

    system: System
    method: Method
    quads: int
    regular: bool
    backwards: bool
    noise: OwnSteps | None


@dataclass
class _Adaptive:
    loop: Loop


def refuse_gradients(y0: Tensor, captured: Captured) -> None:
    """``compile=True`` has no gradients yet, and must not lose them silently."""
    if torch.is_grad_enabled() and (y0.requires_grad or captured.differentiable()):
        raise CompileError(
            message(
                "compile",
                "True where y0 or parameters require a gradient",
                "True inside torch.no_grad(), or with adjoint='backsolve'",
                "The compiled loop is forward only: its direct gradients would be lost.",
            )
        )


def compile_fixed(loop: FixedLoop) -> Callable[[State, int, int], State]:
    """A chunk for :class:`FixedLoop`: from the state before step ``first`` to the one before step ``last``."""
    system, table = loop.system, loop.table
    noise = loop.noise
    if not table.shared:
        raise CompileError(message("compile", "True with (batch, T) output times", "True with (T,) output times"))
    if noise is not None and not isinstance(noise, OwnSteps):
        raise CompileError(message("compile", "True with brownian=", "True with seed="))
    if loop.dense:
        raise CompileError(message("compile", "True with dense=True", "one of the two"))
    width = 1 if noise is None else max(noise.channels * system.spec.batch, 1)
    quads = max(1, min(64, BLOCK // (4 * width)))
    spec = system.spec

    def chunk(state: State, first: int, last: int) -> State:
        for low in range(first, last, TABLE_STEPS):
            high = min(low + TABLE_STEPS, last)
            times, steps = (tabled(x, spec.time_dtype) for x in table.rows(low, high))
            if noise is None:
                state = one(state, 0, high - low, times, steps, ())
                continue
            named = noise.named(low, high)
            extra = (*(tabled(x, torch.int64) for x in named[:2]), tabled(named.scale, noise.dtype))
            for a, b in named.runs():
                state = one(state, a, b, times, steps, extra, bool(named.regular[a]), bool(named.scale[a] < 0))
        return state

    def tabled(values: np.ndarray, dtype: torch.dtype) -> Tensor:
        """Always of one length, so that one graph serves all tables; what lies behind is not read."""
        out = torch.zeros(TABLE_STEPS + 1, dtype=dtype, device=spec.device)
        out[: len(values)] = torch.as_tensor(values, dtype=dtype)
        return out

    def one(
        state: State,
        low: int,
        high: int,
        times: Tensor,
        steps: Tensor,
        extra: tuple[Tensor, ...],
        regular: bool = True,
        backwards: bool = False,
    ) -> State:
        number = lambda k: torch.tensor(k, device=spec.device)
        fixed = _Fixed(system, loop.method, quads, regular, backwards, noise)
        key = ("fixed", loop.method, spec, quads, regular, backwards)
        run = _chunk(system, key, _fixed_chunk, fixed)
        y, *cache = run(number(low), number(high), times, steps, extra, (state.y.detach(), *state.cache))
        return State(y, tuple(cache))

    return chunk


def _fixed_chunk(
    fixed: _Fixed,
    first: Tensor,
    last: Tensor,
    times: Tensor,
    steps: Tensor,
    extra: tuple[Tensor, ...],
    start: tuple[Tensor, ...],
) -> tuple[Tensor, ...]:
    """Steps first <= k < last; an outer loop draws a block of noise, an inner one uses it up."""
    at = lambda table, k: table.index_select(0, k.reshape(1)).reshape(table.shape[1:])

    def step(k: Tensor, noise: Increment, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        inc = Increments(at(times, k), at(times, k + 1), at(steps, k), *noise)
        after = fixed.method.step(fixed.system, State(state[0], tuple(state[1:])), inc).state
        return tuple(x.clone() for x in (after.y, *after.cache))

    if not extra:
        going = lambda k, *state: k < last
        body = lambda k, *state: (k + 1, *step(k, Increment(), state))
        return while_loop(going, body, (first.clone(), *(x.clone() for x in start)))[1:]

    noise = fixed.noise
    assert noise is not None
    cells, ticks, scale = extra
    size = 4 * fixed.quads

    def draw(k: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """Normals for a block of steps from k on, and which row is k's."""
        ahead = torch.arange(size if not fixed.regular else fixed.quads, device=k.device)
        if not fixed.regular:
            rows = (k + ahead).clamp(max=cells.shape[0] - 1)
            return noise.off_grid(cells.index_select(0, rows), ticks.index_select(0, rows)), torch.zeros_like(k)
        cell = at(cells, k)
        quad = cell >> 2
        if fixed.backwards:
            return tuple(z.flip(0) for z in noise.whole(quad - (fixed.quads - 1) + ahead)), 4 * quad + 3 - cell
        return noise.whole(quad + ahead), cell - 4 * quad

    def block(k: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        drawn, row = draw(k)
        count = torch.minimum(size - row, last - k)

        def inner(j: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
            here = lambda table, j: table.index_select(0, j.reshape(1))
            inc = noise.scaled(tuple(here(z, row + j) for z in drawn), here(scale, k + j)).map(lambda x: x[0])
            return (j + 1, *step(k + j, inc, state))

        done = while_loop(lambda j, *state: j < count, inner, (torch.zeros_like(k), *(x.clone() for x in state)))
        return (k + count, *(x.clone() for x in done[1:]))

    start = tuple(x.clone() for x in start)
    return while_loop(lambda k, *state: k < last, block, (first.clone(), *start))[1:]


def compile_adaptive(loop: Loop) -> Callable[[Carry, int], Carry]:
    """A chunk for :func:`sdesolve.driver.drive`: up to CHUNK_STEPS steps of all lanes."""
    if loop.dense:
        raise CompileError(message("compile", "True with dense=True", "one of the two"))
    if isinstance(loop.noise, PathNoise) and isinstance(loop.noise.window, Windows):
        raise CompileError(message("compile", "True with (batch, T) times of an SDE", "True with (T,) output times"))
    spec, control = loop.system.spec, loop.control
    number = lambda x: torch.as_tensor(x, dtype=spec.time_dtype, device=spec.device)
    loop = replace(loop, control=replace(control, rtol=number(control.rtol), atol=number(control.atol)))
    key = (
        "adaptive",
        loop.method,
        spec,
        loop.clock.lanes,
        loop.clock.direction,
        control.p,
        control.i,
        control.d,
    )
    run = _chunk(loop.system, key, _adaptive_chunk, _Adaptive(loop))
    steps = torch.tensor(CHUNK_STEPS, device=spec.device)

    def chunk(carry: Carry, point: int) -> Carry:
        flat, tree = pytree.tree_flatten(carry)
        until = torch.tensor(point, device=spec.device)
        return pytree.tree_unflatten(run(steps, until, tuple(flat), tree), tree)

    return chunk


def _adaptive_chunk(
    adaptive: _Adaptive, steps: Tensor, until: Tensor, start: tuple[Tensor, ...], tree: Any
) -> list[Tensor]:
    loop = adaptive.loop

    def going(k: Tensor, *flat: Tensor) -> Tensor:
        return (k < steps) & loop.moving(pytree.tree_unflatten(list(flat), tree), until)

    def body(k: Tensor, *flat: Tensor) -> tuple[Tensor, ...]:
        carry = pytree.tree_unflatten(list(flat), tree)
        after = loop.commit(carry, loop.attempt(carry, until=until))
        return (k + 1, *(x.clone() for x in pytree.tree_leaves(after)))

    return list(while_loop(going, body, (torch.zeros_like(steps), *(x.clone() for x in start)))[1:])


# ---- compiling, and telling why not


def _chunk(system: System, key: Any, function: Callable[..., Any], parts: Any) -> Callable[..., Any]:
    """The compiled function for this key, kept with the problem, reading ``parts``."""
    kept: dict[Any, list[Any]] = system.problem.__dict__.setdefault("_compiled_chunks", {})
    if key not in kept:
        _require_compiler(system.spec.device)
        kept[key] = [parts, _compile(function)]
    kept[key][0] = parts
    compiled = kept[key][1]

    def run(*arguments: Any) -> Any:
        try:
            with torch.no_grad():
                return compiled(parts, *arguments)
        except KeyboardInterrupt:
            raise
        except Exception as error:
            if isinstance(error, _compiler_errors()):
                raise CompileError(_explanation(error)) from error
            raise

    return run


def _compile(function: Callable[..., Any]) -> Callable[..., Any]:
    """A compilation of its own: dynamo counts recompilations by code object, so each chunk gets a copy of the code."""
    assert isinstance(function, types.FunctionType)
    code = function.__code__.replace()
    own = types.FunctionType(code, function.__globals__, function.__name__, function.__defaults__, function.__closure__)
    return torch.compile(own, fullgraph=True, dynamic=False)


def _compiler_errors() -> tuple[type[BaseException], ...]:
    from torch._dynamo import exc as dynamo
    from torch._inductor import exc as inductor

    return (dynamo.TorchDynamoException, inductor.InductorError, inductor.CppCompileError)


def _require_compiler(device: torch.device) -> None:
    if device.type != "cpu":
        return
    from torch._inductor import cpp_builder
    from torch._inductor import exc as inductor

    try:
        cpp_builder.get_cpp_compiler()
    except (inductor.InvalidCxxCompiler, RuntimeError, OSError) as error:
        raise CompileError(
            message(
                "compile",
                "True on a machine without a C++ compiler",
                "True where g++ or clang++ is on the PATH (or named by CXX)",
                "Install one, or drop compile=True: the eager loop gives the same numbers.",
            )
        ) from error


def _explanation(error: BaseException) -> str:
    """Which line of the user's cannot be compiled, as far as the compiler says."""
    frames = list(getattr(error, "real_stack", None) or [])
    here = __file__.rsplit("/", 1)[0]
    own = [f for f in frames if not f.filename.startswith(here) and "/torch/" not in f.filename]
    place = f"{own[-1].filename}, line {own[-1].lineno}: {own[-1].line}" if own else "the right-hand side"
    reason = str(error).strip().split("\n")[0]
    return f"compile: this cannot be compiled: {place}. Drop compile=True, or rewrite that line. ({reason})"
