"""What the user asked for, checked: every mistake is named here, before anything is computed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from numbers import Real
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd import forward_ad

from sdesolve.brownian import BrownianPath
from sdesolve.errors import CompileError, message
from sdesolve.event import Event
from sdesolve.methods import choose, names
from sdesolve.methods.method import Method, plain_eager
from sdesolve.problem import SDE, Problem
from sdesolve.state import StateSpec
from sdesolve.step_size import PID
from sdesolve.system import System


def check_problem_type(problem: Any) -> Problem:
    """The problem, if it is one."""
    if not isinstance(problem, Problem) or not problem.functions:
        advice = "Wrap your function: ss.ODE(f), or ss.SDE(drift, diffusion)."
        accepted = "an sdesolve.ODE, SDE, SplitODE, Semilinear, Langevin or Hamiltonian"
        raise TypeError(message("problem", type(problem).__name__, accepted, advice))
    return problem


def refuse_complex_noise(system: System) -> None:
    """SDEs are real."""
    if system.is_sde and system.spec.dtype.is_complex:
        raise TypeError(
            message("y0", f"dtype {system.spec.dtype} for an SDE", "a real dtype", "Split real and imaginary parts.")
        )


def read_times(ts: Any, spec: StateSpec) -> tuple[Tensor, NDArray[np.float64], float]:
    """Output times as a tensor, as float64 columns (T, 1) or (T, batch), and the rounding unit they came with."""
    if not isinstance(ts, Tensor):
        try:
            ts = torch.as_tensor(ts, dtype=torch.float64)
        except (TypeError, ValueError) as error:
            raise TypeError(message("ts", type(ts).__name__, "a tensor (T,) or (batch, T) of times")) from error
    shape = tuple(ts.shape)
    if ts.ndim not in (1, 2) or ts.shape[-1] < 2 or ts.is_complex() or ts.dtype == torch.bool:
        raise ValueError(message("ts", f"shape {shape}, {ts.dtype}", "(T,) or (batch, T) real times with T >= 2"))
    if ts.ndim == 2 and (not spec.batched or ts.shape[0] != spec.batch):
        if not spec.batched:
            raise ValueError(message("ts", f"shape {shape} with batched=False", "(T,), as there is one trajectory"))
        advice = "Times stand in the last dimension: pass ts.T." if ts.shape[1] == spec.batch else ""
        got = f"shape {shape} for y0 with a batch of {spec.batch}"
        raise ValueError(message("ts", got, f"(T,) or ({spec.batch}, T)", advice))
    times = np.array(_numbers(ts), dtype=np.float64).reshape(-1, shape[-1]).T
    gaps = np.diff(times, axis=0)
    if not (np.isfinite(times).all() and ((gaps > 0).all() or (gaps < 0).all())):
        raise ValueError(
            message(
                "ts",
                _shown(ts),
                "finite times, strictly increasing or strictly decreasing (in each trajectory alike)",
            )
        )
    eps = torch.finfo(ts.dtype).eps if ts.is_floating_point() else 0.0
    return ts, np.ascontiguousarray(times), max(eps, torch.finfo(torch.float64).eps)


def read_moves(ts: Tensor, spec: StateSpec, system: System) -> Tensor | None:
    """Zeros with a graph to the output times, (T, 1) or (T, batch), where these are differentiated."""
    if not _varies(ts):
        return None
    if system.is_sde:
        raise ValueError(
            message(
                "ts",
                "times with a gradient for an SDE",
                "times without gradient",
                "A path of noise has no derivative by time: pass ts.detach().",
            )
        )
    moves = (ts - ts.detach()).to(spec.time_dtype)
    return moves[:, None] if ts.ndim == 1 else moves.T


def _varies(x: Tensor) -> bool:
    """Whether a tensor is differentiated. Inside torch.func.grad and jvp every new tensor is wrapped."""
    while not x.requires_grad and forward_ad.unpack_dual(x).tangent is None:
        if not torch._C._functorch.is_functorch_wrapped_tensor(x):
            return False
        if torch._C._functorch.is_batchedtensor(x):
            raise ValueError(
                message(
                    "ts",
                    "a tensor that torch.func.vmap maps over",
                    "times that are not",
                    "Times of each trajectory's own are (batch, T).",
                )
            )
        x = torch._C._functorch.get_unwrapped(x)
    return True


def _numbers(x: Tensor) -> NDArray[Any]:
    """The numbers behind the wrappers of torch.func, under which no tensor can be read."""
    while torch._C._functorch.is_functorch_wrapped_tensor(x):
        x = torch._C._functorch.get_unwrapped(x)
    with torch._C._DisableFuncTorch():
        x = x.detach().cpu()
        return (x.to(torch.float64) if x.is_floating_point() else x).numpy()


def _shown(ts: Tensor) -> str:
    values = _numbers(ts).reshape(-1).tolist()
    return f"{values}" if len(values) <= 8 else f"{[*values[:4], '...', *values[-3:]]}"


def read_step(dt: Any) -> float | None:
    """The step as a float, or None."""
    if dt is None:
        return None
    try:
        if isinstance(dt, (str, bytes, bool)):
            raise TypeError
        value = float(dt)
    except (TypeError, ValueError, RuntimeError) as error:
        got = f"a tensor of shape {tuple(dt.shape)}" if isinstance(dt, Tensor) else f"{dt!r}, a {type(dt).__name__}"
        raise TypeError(message("dt", got, "a positive number")) from error
    if not (value > 0 and math.isfinite(value)):
        advice = "Backwards solves take decreasing ts and a positive dt." if value < 0 else ""
        raise ValueError(message("dt", repr(value), "a positive finite number", advice))
    return value


def asks_to_adapt(dt: float | None, rtol: Any, atol: Any, controller: Any) -> bool:
    """Whether the request is for adaptive steps: whatever is not for fixed ones of dt."""
    return dt is None or any(x is not None for x in (rtol, atol, controller))


def read_control(system: System, method: Method, dt: float | None, rtol: Any, atol: Any, controller: Any) -> PID | None:
    """The controller of adaptive steps, or None for fixed steps of dt. Only an ODE has tolerances by default."""
    if controller is not None:
        if not isinstance(controller, PID):
            raise TypeError(message("controller", type(controller).__name__, "an ss.PID(...)"))
        if rtol is not None or atol is not None:
            raise ValueError(
                message("rtol, atol", "tolerances beside controller=", "one of the two", "Write PID(rtol, atol).")
            )
    wanted = controller is not None or rtol is not None or atol is not None
    if not wanted and dt is not None:
        if method.adaptive_only:
            accepted, advice = "adaptive steps: rtol=, atol=", "With fixed steps say which: 'tsit5', or 'rodas5p'."
            raise ValueError(message("dt", f"fixed steps for method {method.name!r}", accepted, advice))
        return None
    if wanted and method.error_order is None:
        able = [m for m in names(method.problem) if adapts(system, m)]
        advice = f"Adaptive are: {', '.join(able)}; or" if able else "For fixed steps"
        if not able and system.noise == "general" and system.calculus == "ito":
            advice = (
                "sde.to_calculus('stratonovich') is the same process, which method='heun' solves adaptively; "
                "commutative=True in the SDE, where that holds, allows 'milstein'; or"
            )
        raise ValueError(
            message(
                "rtol, atol, controller",
                f"adaptive steps for method {method.name!r}, which has no error estimate",
                "fixed steps, dt=",
                f"{advice} pass dt= without tolerances.",
            )
        )
    if not wanted and (system.is_sde or method.error_order is None):
        raise _no_steps(method)
    if controller is not None:
        return controller
    given = {name: value for name, value in (("rtol", rtol), ("atol", atol)) if value is not None}
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, (Real, Tensor)):
            got = f"{value!r}, a {type(value).__name__}"
            raise TypeError(message(name, got, "a number >= 0, or a tensor that broadcasts against y"))
    tolerances: dict[str, Any] = {k: v if isinstance(v, Tensor) else float(v) for k, v in given.items()}
    return PID(**tolerances)


def _no_steps(method: Method) -> ValueError:
    """Nothing says how long steps are: some tolerances suit most ODEs, none suit most SDEs."""
    accepted, advice = "dt=, the length of a step", "."
    if method.error_order is not None:
        accepted += ", or rtol= and atol= for adaptive steps"
        advice = "; or rtol=1e-2, atol=1e-3: each step is then as long as its error allows."
    return ValueError(
        message(
            "dt",
            f"neither dt nor tolerances for method {method.name!r}",
            accepted,
            f"For example dt=0.01: every interval between output times then gets ceil(gap/dt) equal steps{advice}",
        )
    )


def adapts(system: System, name: str) -> bool:
    """Whether the method of this name could treat the problem with adaptive steps."""
    try:
        return choose(system, name).error_order is not None
    except ValueError:
        return False


def read_paths(paths: Any, spec: StateSpec) -> Tensor:
    """Trajectory ids, int64 (batch,)."""
    if paths is None:
        return torch.arange(spec.batch, device=spec.device)
    try:
        ids = torch.as_tensor(paths)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise TypeError(message("paths", repr(paths), f"({spec.batch},) integers, one id a trajectory")) from error
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool or tuple(ids.shape) != (spec.batch,):
        raise ValueError(
            message(
                "paths",
                f"shape {tuple(ids.shape)}, {ids.dtype}",
                f"({spec.batch},) integers, one id a trajectory",
            )
        )
    ids = ids.to(torch.int64)
    if (ids < 0).any() or (ids >= 2**32).any() or len(torch.unique(ids)) < len(ids):
        raise ValueError(message("paths", _shown(ids), "distinct ids from 0 to 2^32 - 1"))
    return ids.to(spec.device)


def read_seed(seed: Any, needed: bool) -> int | None:
    """The seed, drawn from torch's global generator if there is none; None for an ODE."""
    if not needed:
        if seed is not None:
            raise ValueError(message("seed", repr(seed), "None for an ODE, which has no noise"))
        return None
    if seed is None:
        try:
            return int(torch.randint(0, 2**63 - 1, (), dtype=torch.int64))
        except RuntimeError as error:
            advice = "All mapped solves then see the same noise."
            raise ValueError(message("seed", "None inside torch.func.vmap", "an int there", advice)) from error
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= int(seed) < 2**64:
        raise ValueError(message("seed", repr(seed), "an int from 0 to 2^64 - 1, or None"))
    return int(seed)


def read_max_steps(max_steps: Any, adaptive: bool) -> int:
    """The bound on steps; the default depends on what bounds them otherwise."""
    if max_steps is None:
        return 100_000 if adaptive else 2**62
    if isinstance(max_steps, bool) or not isinstance(max_steps, int) or max_steps < 1:
        raise ValueError(message("max_steps", repr(max_steps), "a positive int or None"))
    return max_steps


def check_brownian(system: System, brownian: Any, seed: Any, paths: Any) -> None:
    """A path brings its own seed and ids, and is for SDEs."""
    if brownian is None:
        return
    if not isinstance(brownian, BrownianPath):
        raise TypeError(message("brownian", type(brownian).__name__, "an ss.BrownianPath"))
    if not system.is_sde:
        raise ValueError(message("brownian", "a path for an ODE", "None for an ODE, which has no noise"))
    for name, value in (("seed", seed), ("paths", paths)):
        if value is not None:
            advice = (
                f"Write ss.BrownianPath(..., {name}=...)." if name == "paths" else "It is the path's first argument."
            )
            raise ValueError(message(name, f"{value!r} beside brownian=", f"{name} of the BrownianPath alone", advice))


def with_standard_noise(system: System, path: BrownianPath | None) -> tuple[System, BrownianPath | None]:
    """The same process along independent Brownian motions, which is what methods for general noise and corrections of
    the drift reckon with."""
    if path is None or path.correlation is None or path.dtype != system.spec.dtype:
        return system, path
    if system.noise != "general" or system.additive:
        return system, path
    assert isinstance(system.problem, SDE)
    standard, factor = path.standard()
    return System(system.problem.mixed(factor), system.spec), standard


def fitted_control(control: PID, spec: StateSpec) -> PID:
    """The controller with tensor tolerances in the state's precision, checked to broadcast against it."""
    found: dict[str, Any] = {}
    for name in ("rtol", "atol"):
        value = getattr(control, name)
        if isinstance(value, Tensor):
            shape = tuple(value.shape)
            pairs = zip(reversed(shape), reversed(spec.shape), strict=False)
            if len(shape) > len(spec.shape) or any(a not in (1, b) for a, b in pairs):
                raise ValueError(
                    message(name, f"shape {shape}", f"a number, or a tensor that broadcasts to {spec.shape}")
                )
            found[name] = value.detach().to(dtype=spec.time_dtype, device=spec.device)
    return replace(control, **found) if found else control


def check_events(
    events: tuple[Event, ...], system: System, method: Method, way: str, compile: bool, dense: bool
) -> None:
    """Refuse where events cannot be found, or not with gradients in this way."""
    if not events:
        return
    if system.is_sde:
        advice = "A path of noise that comes near a level crosses it without end: look at ys instead."
        raise ValueError(message("events", f"events of an {system.problem.kind} problem with noise", "None", advice))
    if not method.has_dense:
        able = [name for name in names("ode", method.made_for) if _gives_dense(system, name)]
        accepted = f"events with {', '.join(able)}"
        raise ValueError(message("events", f"events with method {method.name!r}", accepted, "It has no dense output."))
    changing = any(event.ends or event.affect for event in events)
    if way != "direct" and (changing or way not in ("checkpoint", "backsolve")):
        got = f"{way!r} with events" + (" that end a trajectory or change its state" if changing else "")
        other = "'checkpoint' and 'backsolve' with events that are only written down (terminal=False, no affect)"
        raise ValueError(message("adjoint", got, f"'direct', or {other}"))
    if not plain_eager():
        raise ValueError(message("events", "events inside a torch.func transform", "None there", "Use torch.autograd."))
    if compile and dense:
        raise CompileError(message("compile", "True with dense=True", "one of the two"))
    if compile and way != "direct":
        raise CompileError(message("compile", f"True with adjoint={way!r} and events", "it with adjoint='direct'"))


def _gives_dense(system: System, name: str) -> bool:
    """Whether the method of this name could treat the problem, with dense output."""
    try:
        return choose(system, name).has_dense
    except ValueError:
        return False


def one_of(argument: str, got: object, accepted: Sequence[object]) -> None:
    """Refuse what is not in the list."""
    if got not in accepted:
        raise ValueError(message(argument, repr(got), ", ".join(map(repr, accepted))))


def check_direction(system: System, backwards: bool) -> None:
    """A backward SDE needs an integral that can be read backwards."""
    if backwards and system.is_sde and system.calculus == "ito" and not system.additive:
        raise ValueError(
            message(
                "ts",
                "decreasing times for an Ito SDE whose diffusion may depend on y",
                "decreasing times for Stratonovich SDEs and for additive noise",
                "If the diffusion does not depend on y, say additive=True; solve sde.to_calculus('stratonovich') "
                "to follow the same path backwards; or ss.time_reversed(sde) for the equation in s = -t.",
            )
        )
