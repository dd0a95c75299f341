"""Geometric Brownian motion without a solver: the loops that one would write by hand for this one equation.

Each makes a function without arguments that returns y(1) of all paths, y(0) = 1, and is fast from its second call on.
"""

from __future__ import annotations

import ctypes
import platform
import subprocess
import tempfile
from collections.abc import Callable
from functools import cache
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

SOURCE = Path(__file__).with_name("gbm.cpp")

Loop = Callable[[], Any]


def torch_loop(paths: int, steps: int, mu: float, sigma: float, device: torch.device) -> Loop:
    """A Python loop with a ``torch.randn`` a step."""
    generator = torch.Generator(device)
    h = 1 / steps

    def run() -> Tensor:
        generator.manual_seed(0)
        y = torch.ones(paths, device=device)
        for _ in range(steps):
            w = sqrt(h) * torch.randn(paths, generator=generator, device=device)
            y = y + mu * y * h + sigma * y * w
        return y

    return run


def numba_loop(paths: int, steps: int, mu: float, sigma: float) -> Loop:
    """A parallel loop over paths, each with its own loop over steps. Its generators are seeded by numba."""
    import numba

    most: int = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined,unused-ignore]

    @numba.njit(parallel=True, fastmath=True)  # type: ignore[untyped-decorator,unused-ignore]
    def solve(paths: int, steps: int, mu: float, sigma: float) -> np.ndarray:
        h = np.float32(1 / steps)
        root, drift, noise = np.float32(np.sqrt(h)), np.float32(mu), np.float32(sigma)
        out = np.empty(paths, np.float32)
        for i in numba.prange(paths):
            y = np.float32(1)
            for _ in range(steps):
                w = root * np.float32(np.random.standard_normal())  # noqa: NPY002
                y = y + drift * y * h + noise * y * w
            out[i] = y
        return out

    def run() -> np.ndarray:
        numba.set_num_threads(min(torch.get_num_threads(), most))
        found: np.ndarray = solve(paths, steps, mu, sigma)
        return found

    return run


def jax_scan(paths: int, steps: int, mu: float, sigma: float) -> Loop:
    """``jax.lax.scan`` over one key a step, under ``jax.jit``."""
    import jax
    from jax import numpy as jnp

    h = 1 / steps

    def step(y: Any, key: Any) -> tuple[Any, None]:
        w = sqrt(h) * jax.random.normal(key, (paths,), jnp.float32)
        return y + mu * y * h + sigma * y * w, None

    @jax.jit
    def solve(key: Any) -> Any:
        return jax.lax.scan(step, jnp.ones(paths, jnp.float32), jax.random.split(key, steps))[0]

    key = jax.random.PRNGKey(0)
    return lambda: solve(key).block_until_ready()


def native_loop(paths: int, steps: int, mu: float, sigma: float) -> Loop:
    """gbm.cpp: one pass in C++, vectorised by the compiler, one thread for each of torch's."""
    solve = library().solve

    def run() -> np.ndarray:
        y = np.ones(paths, np.float32)
        solve(y.ctypes.data, paths, steps, mu, sigma, 0, torch.get_num_threads())
        return y

    return run


@cache
def library() -> ctypes.CDLL:
    """gbm.cpp, built by g++ in a temporary folder, which may go once it is loaded."""
    flags = ["-O3", "-march=native", "-ffast-math", "-fopenmp", "-fPIC"]
    if platform.machine() in ("x86_64", "AMD64"):
        flags.append("-mprefer-vector-width=512")
    with tempfile.TemporaryDirectory() as folder:
        made, shared = f"{folder}/gbm.o", f"{folder}/gbm.so"
        subprocess.run(["g++", *flags, "-c", str(SOURCE), "-o", made], check=True)
        # linked without -ffast-math: with it, loading the library would flush denormals to zero in the whole process
        subprocess.run(["g++", "-shared", "-fopenmp", made, "-o", shared], check=True)
        found = ctypes.CDLL(shared)
    integer, real, pointer = ctypes.c_int64, ctypes.c_float, ctypes.c_void_p
    found.solve.argtypes = [pointer, integer, integer, real, real, ctypes.c_uint64, ctypes.c_int]
    found.solve.restype = None
    found.block.argtypes = [ctypes.c_uint32, ctypes.c_uint32, ctypes.c_uint64, pointer, pointer]
    found.block.restype = None
    return found
