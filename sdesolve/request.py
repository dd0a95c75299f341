"""What the user asked for, checked: every mistake is named here, before anything is computed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdesolve.errors import message
from sdesolve.methods import choose, names
from sdesolve.methods.method import Method
from sdesolve.problem import ODE, SDE, Problem
from sdesolve.state import StateSpec
from sdesolve.step_size import PID
from sdesolve.system import System


def check_problem_type(problem: Any) -> Problem:
    if not isinstance(problem, (ODE, SDE)):
        advice = "Wrap your function: ss.ODE(f), or ss.SDE(drift, diffusion)."
        raise TypeError(message("problem", type(problem).__name__, "an sdesolve.ODE or sdesolve.SDE", advice))
    return problem


def read_times(ts: Any, spec: StateSpec) -> tuple[Tensor, NDArray[np.float64], float]:
    """Output times as a tensor, as float64 columns (T, 1) or (T, batch), and the rounding unit they came with."""
    if not isinstance(ts, Tensor):
        try:
            ts = torch.as_tensor(ts, dtype=torch.float64)
        except (TypeError, ValueError) as error:
            raise TypeError(message("ts", type(ts).__name__, "a tensor (T,) or (batch, T) of times")) from error
    if torch._C._functorch.is_functorch_wrapped_tensor(ts) or ts.requires_grad:
        raise ValueError(
            message(
                "ts",
                "a tensor that is differentiated or mapped over",
                "times without gradient",
                "Gradients with respect to output times are not there yet: pass ts.detach().",
            )
        )
    shape = tuple(ts.shape)
    if ts.ndim not in (1, 2) or ts.shape[-1] < 2 or ts.is_complex():
        raise ValueError(message("ts", f"shape {shape}, {ts.dtype}", "(T,) or (batch, T) real times with T >= 2"))
    if ts.ndim == 2 and (not spec.batched or ts.shape[0] != spec.batch):
        wanted = f"({spec.batch}, T)" if spec.batched else "(T,), since batched=False"
        raise ValueError(message("ts", f"shape {shape} for y0 with a batch of {spec.batch}", f"(T,) or {wanted}"))
    times = ts.detach().cpu().to(torch.float64).numpy().reshape(-1, shape[-1]).T
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


def _shown(ts: Tensor) -> str:
    values = ts.flatten().tolist()
    return f"{values}" if len(values) <= 8 else f"{values[:4] + ['...'] + values[-3:]}"


def read_step(dt: Any) -> float | None:
    if dt is None:
        return None
    try:
        value = float(dt)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(message("dt", type(dt).__name__, "a positive number")) from error
    if not (value > 0 and math.isfinite(value)):
        advice = "Backwards solves take decreasing ts and a positive dt." if value < 0 else ""
        raise ValueError(message("dt", repr(value), "a positive finite number", advice))
    return value


def read_control(system: System, method: Method, dt: float | None, rtol: Any, atol: Any, controller: Any) -> PID | None:
    """The controller of adaptive steps, or None for fixed steps of dt."""
    if controller is not None:
        if not isinstance(controller, PID):
            raise TypeError(message("controller", type(controller).__name__, "an ss.PID(...)"))
        if rtol is not None or atol is not None:
            raise ValueError(
                message("rtol, atol", "tolerances beside controller=", "one of the two", "Write PID(rtol, atol).")
            )
    wanted = controller is not None or rtol is not None or atol is not None
    if not wanted and dt is not None:
        return None
    if method.error_order is None:
        if wanted:
            able = [m for m in names(method.problem) if choose_quietly(system, m)]
            advice = f"Adaptive are: {', '.join(able)}; or" if able else "For fixed steps"
            raise ValueError(
                message(
                    "rtol, atol, controller",
                    f"adaptive steps for method {method.name!r}, which has no error estimate",
                    "fixed steps, dt=",
                    f"{advice} pass dt= without tolerances.",
                )
            )
        raise ValueError(
            message(
                "dt",
                f"neither dt nor tolerances for method {method.name!r}",
                "dt=, the length of a step",
                "For example dt=0.01: every interval between output times then gets ceil(gap/dt) equal steps.",
            )
        )
    if controller is not None:
        return controller
    given = {name: value for name, value in (("rtol", rtol), ("atol", atol)) if value is not None}
    for name, value in given.items():
        if not isinstance(value, (int, float, Tensor)):
            raise TypeError(message(name, type(value).__name__, "a number >= 0, or a tensor that broadcasts against y"))
    return PID(**given)


def choose_quietly(system: System, name: str) -> bool:
    """Whether the method of this name could treat the problem with adaptive steps."""
    try:
        return choose(system, name).error_order is not None
    except ValueError:
        return False


def read_paths(paths: Any, spec: StateSpec) -> Tensor:
    """Trajectory ids, int64 (batch,)."""
    if paths is None:
        return torch.arange(spec.batch, device=spec.device)
    ids = torch.as_tensor(paths)
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
        return int(torch.randint(0, 2**63 - 1, (), dtype=torch.int64))
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= int(seed) < 2**64:
        raise ValueError(message("seed", repr(seed), "an int from 0 to 2^64 - 1, or None"))
    return int(seed)


def read_max_steps(max_steps: Any, adaptive: bool) -> int:
    if max_steps is None:
        return 100_000 if adaptive else 2**62
    if isinstance(max_steps, bool) or not isinstance(max_steps, int) or max_steps < 1:
        raise ValueError(message("max_steps", repr(max_steps), "a positive int or None"))
    return max_steps


def one_of(argument: str, got: object, accepted: Sequence[str]) -> None:
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
                "If the diffusion does not depend on y, say additive=True; solve sde.to_calculus('stratonovich') to follow "
                "the same path backwards; or ss.time_reversed(sde) for the equation in s = -t.",
            )
        )
