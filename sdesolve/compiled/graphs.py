"""Compiled functions, kept by the structure of what they compute, and the errors of those that cannot be compiled.

A function takes ``parts``, Python objects that shape the graph, and tensors. It is compiled once for each structure:
the code of the user's functions, the method, the kinds of the state and the clock. Within one structure dynamo looks at
what the graph was specialised to (constants in closures, shapes) and compiles anew where that has changed. Numbers that
vary from solve to solve are tensors, and the batch is a symbol.
"""

from __future__ import annotations

import logging
import re
import types
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from sdesolve.compiled.allocation import shared_removals
from sdesolve.compiled.attributes import attributes_where_they_are_asked_for
from sdesolve.compiled.components import component_vectors
from sdesolve.compiled.network import network_parts
from sdesolve.compiled.words import products_of_words
from sdesolve.errors import CompileError, message

T = TypeVar("T")

#: structures that are kept; the one that was not used for the longest time goes first
MOST_STRUCTURES = 256
#: what is known of them beside graphs
MOST_FACTS = 4 * MOST_STRUCTURES
#: graphs of one structure
MOST_GRAPHS = 64

_log = logging.getLogger(__name__)
#: structures whose graphs are of one batch each
_static: set[Any] = set()
_kept: OrderedDict[Any, Callable[..., Any]] = OrderedDict()
_facts: OrderedDict[Any, Any] = OrderedDict()


def graph(key: Any, function: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
    """``function`` compiled for this structure."""
    if key not in _kept:
        _require_compiler(device)
        _kept[key] = _compile(function, device)
        if len(_kept) > MOST_STRUCTURES:
            _static.discard(_kept.popitem(last=False)[0])
    _kept.move_to_end(key)
    compiled = _kept[key]
    if torch.is_autocast_enabled(device.type):
        raise CompileError(
            message(
                "compile",
                "True inside torch.autocast",
                "True outside of it",
                "Cast inside the functions, or drop compile=True.",
            )
        )

    def run(*arguments: Any) -> Any:
        with explained(), torch.no_grad():
            if key not in _static:
                try:
                    return called(compiled, arguments)
                except _compiler_errors() as error:
                    _log.info("symbolic batch: %s", error)
                    # perhaps the functions read tensors of one batch: inductor cannot make a symbol a number again
                    _forget(compiled)
            done = called(compiled, _unmarked(arguments))
            _static.add(key)
            return done

    return run


def called(compiled: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """Call a compiled function; the graph after the last one of a structure takes the place of all."""
    with torch._dynamo.config.patch(LIMITS), products_of_words(), attributes_where_they_are_asked_for():
        try:
            return compiled(*arguments)
        except torch._dynamo.exc.FailOnRecompileLimitHit:
            warnings.warn(
                f"compile: graph {MOST_GRAPHS + 1} of one function. Numbers in closures and globals are constants of a "
                "graph: keep those that change in tensors, and nothing is compiled anew.",
                stacklevel=2,
            )
            _forget(compiled)
            return compiled(*arguments)


def _forget(compiled: Callable[..., Any]) -> None:
    """All graphs of a compiled function."""
    torch._dynamo.reset_code(compiled._torchdynamo_orig_callable.__code__)  # type: ignore[attr-defined]


def is_static(key: Any) -> bool:
    """Whether the graphs of this structure are of one batch each."""
    return key in _static


def fact(key: Any, find: Callable[[], T]) -> T:
    """What was found once for this structure."""
    if key not in _facts:
        _facts[key] = find()
        if len(_facts) > MOST_FACTS:
            _facts.popitem(last=False)
    _facts.move_to_end(key)
    return _facts[key]


@contextmanager
def explained() -> Iterator[None]:
    """Errors of the compiler as a `CompileError` that names the line."""
    try:
        yield
    except Exception as error:
        if isinstance(error, _compiler_errors()):
            raise CompileError(_explanation(error)) from error
        raise


# floats are constants of a graph: numbers that vary are tensors, and looking for others traces everything twice;
# a hook that a module gets later is seen
LIMITS = {
    "recompile_limit": MOST_GRAPHS,
    "accumulated_recompile_limit": 100 * MOST_GRAPHS,
    "specialize_float": True,
    "skip_nnmodule_hook_guards": False,
}


def mark_batch(tensors: Iterable[Tensor | None], dim: int = 0) -> None:
    """Let the graph take this dimension as a symbol, so that another batch is another number; a batch of 1 is a graph
    of its own."""
    for x in tensors:
        if x is not None and x.ndim > dim and x.shape[dim] > 1:
            torch._dynamo.maybe_mark_dynamic(x, dim)


def _unmarked(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """The same without symbols."""
    for x in pytree.tree_leaves(arguments):
        if isinstance(x, Tensor) and hasattr(x, "_dynamo_weak_dynamic_indices"):
            x._dynamo_weak_dynamic_indices = set()
    return arguments


def _compile(function: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
    """A compilation of its own: dynamo counts recompilations by code object, so each structure has a copy."""
    assert isinstance(function, types.FunctionType)
    code = function.__code__.replace()
    own = types.FunctionType(code, function.__globals__, function.__name__, function.__defaults__, function.__closure__)
    # the loop itself in C++: a third of the time of small steps
    own_passes = {
        "post_grad_custom_pre_pass": component_vectors(),
        "post_grad_custom_post_pass": network_parts(),
        "_pre_fusion_custom_pass": shared_removals(),
    }
    options: dict[str, Any] = {"unsafe_marked_cacheable_functions": {LOOP: _own_code()}}
    if device.type == "cpu":
        options |= {"cpp_wrapper": True, **own_passes}
    return torch.compile(own, fullgraph=True, dynamic=False, options=options)


#: torch 2.13 keeps no graph with a loop on disk unless it is told that the loop may be: a second process then traces,
#: but does not generate code. The names of kept graphs hold the loops' bodies, and what is given here
LOOP = "torch.ops.higher_order.while_loop"


@lru_cache
def _own_code() -> str:
    """A name for what this folder makes of a graph."""
    content = sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        content.update(file.read_bytes())
    return content.hexdigest()


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
    here = __file__.rsplit("/", 2)[0]
    own = [f for f in frames if not f.filename.startswith(here) and "/torch/" not in f.filename]
    place = f"{own[-1].filename}, line {own[-1].lineno}: {own[-1].line}" if own else "the right-hand side"
    return f"compile: this cannot be compiled: {place}. {_reason(str(error))} Drop compile=True, or change that."


#: what the compiler says of things that happen to users, and what they are
_KNOWN = (
    (
        r"Input-to-input aliasing detected at nodes (\w+) and (\w+)",
        r"Two tensors that it reads, \1 and \2 as the compiler calls them, share memory: clone one of them.",
    ),
    (
        r"INTERNAL ASSERT FAILED.*functorch",
        "torch.func.grad or vjp inside it is not compiled together with gradients of the solve: solve under "
        "torch.no_grad(), or with adjoint='backsolve'.",
    ),
)


def _reason(said: str) -> str:
    """Why, in a sentence or two."""
    for pattern, meaning in _KNOWN:
        found = re.search(pattern, said)
        if found:
            return found.expand(meaning)
    explained = re.search(r"Explanation: (.*)", said)
    lines = [line.strip() for line in said.split("\n") if line.strip()]
    reason = explained[1] if explained else " ".join(lines[:2])
    return f"({reason.rstrip('.')}.)"
