"""What a function carries with it: modules and tensors in closures, globals, defaults, partials and objects."""

from __future__ import annotations

import functools
import types
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from sdesolve.errors import TrainingModeError

_FOREIGN = ("torch", "numpy", "builtins", "functools", "math", "sdesolve")
_DEPTH = 20
_PRIVATE_OF_MODULES = {"_parameters", "_buffers", "_modules"}


@dataclass
class Captured:
    """Modules, and tensors that require a gradient and belong to no module's parameters."""

    modules: list[nn.Module] = field(default_factory=list)
    tensors: list[Tensor] = field(default_factory=list)

    def differentiable(self) -> list[Tensor]:
        """All parameters and other tensors that need a gradient, each once."""
        every = [p for module in self.modules for p in module.parameters(recurse=False)] + self.tensors
        return list({id(p): p for p in every if p.requires_grad}.values())


def captured(problem: Any) -> Captured:
    """Everything that the functions of a problem, or a function, read, as far as Python lets one look."""
    found = Captured()
    _look(problem, found, set(), 0)
    return found


def _look(thing: Any, found: Captured, seen: set[int], depth: int) -> None:
    if depth > _DEPTH or id(thing) in seen or thing is None or isinstance(thing, (int, float, str, bytes)):
        return
    seen.add(id(thing))
    if isinstance(thing, nn.Module):
        found.modules.append(thing)
        inside: Iterable[Any] = [
            *thing._parameters.values(),
            *thing._buffers.values(),
            *thing._modules.values(),
            *(value for name, value in thing.__dict__.items() if name not in _PRIVATE_OF_MODULES),
        ]
        owner: Any = type(thing).forward
        if isinstance(owner, types.FunctionType) and not _foreign(owner):
            inside = [*inside, owner]
        if type(thing).__module__.split(".")[0] == "torch":
            # torch's own modules keep hooks and the like beside their parameters: nothing of the user's
            inside = [*thing._parameters.values(), *thing._buffers.values(), *thing._modules.values()]
    elif isinstance(thing, Tensor):
        if (thing.requires_grad and not isinstance(thing, nn.Parameter)) or isinstance(thing, nn.Parameter):
            found.tensors.append(thing)
        return
    elif isinstance(thing, functools.partial):
        inside = [thing.func, *thing.args, *thing.keywords.values()]
    elif isinstance(thing, types.MethodType):
        inside = [thing.__self__, thing.__func__]
    elif isinstance(thing, types.FunctionType):
        inside = [] if _foreign(thing) else _of_function(thing)
    elif isinstance(thing, (list, tuple, set, frozenset)):
        inside = list(thing)[:1000]
    elif isinstance(thing, dict):
        inside = list(thing.values())[:1000]
    elif isinstance(thing, type):
        # what a class keeps for all its objects; its methods are looked at when it is called
        values = [] if thing.__module__.split(".")[0] in _FOREIGN else list(vars(thing).values())
        inside = [x for x in values if isinstance(x, (Tensor, nn.Module, list, tuple, dict, types.FunctionType))]
    elif isinstance(thing, types.ModuleType) or type(thing).__module__.split(".")[0] in _FOREIGN:
        return
    else:
        inside = list(getattr(thing, "__dict__", {}).values())
        slots = [name for kind in type(thing).__mro__ for name in getattr(kind, "__slots__", ())]
        inside = [*inside, *(getattr(thing, name, None) for name in slots if isinstance(name, str))]
        call = getattr(type(thing), "__call__", None)  # noqa: B004 - its code is looked at, not called
        if isinstance(call, types.FunctionType):
            inside = [*inside, call]
    for part in inside:
        # a network's depth is its own affair
        _look(part, found, seen, depth if isinstance(part, nn.Module) else depth + 1)


def _foreign(function: types.FunctionType) -> bool:
    return (function.__module__ or "").split(".")[0] in _FOREIGN and not function.__closure__


def _of_function(function: types.FunctionType) -> list[Any]:
    parts: list[Any] = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    for cell in function.__closure__ or ():
        try:
            parts.append(cell.cell_contents)
        except ValueError:  # a cell that has no value yet
            continue
    names = _names(function.__code__)
    for name in names:
        value = function.__globals__.get(name)
        parts.append(value)
        if isinstance(value, types.ModuleType) and value.__name__.split(".")[0] not in _FOREIGN:
            # module.helper, module.tensor: the names that are used, not all that is in it
            parts += [vars(value)[other] for other in names if other in vars(value)]
    return parts


def _names(code: types.CodeType) -> set[str]:
    inner = (const for const in code.co_consts if isinstance(const, types.CodeType))
    return set(code.co_names).union(*(_names(c) for c in inner))


def refuse_training(modules: Iterable[nn.Module]) -> None:
    """Raise for modules in training mode that draw noise or move buffers at every evaluation."""
    for module in modules:
        if not module.training:
            continue
        dropout = getattr(module, "dropout", 0)
        noisy = (isinstance(module, _DropoutNd) and module.p > 0) or (
            isinstance(module, (nn.MultiheadAttention, nn.RNNBase)) and isinstance(dropout, float) and dropout > 0
        )
        moving = isinstance(module, _NormBase) and module.track_running_stats
        if noisy or moving or isinstance(module, nn.RReLU):
            what = "moves its buffers" if moving else "draws new noise"
            raise TrainingModeError(
                f"problem: contains {type(module).__name__} in training mode, which {what} at every evaluation of the "
                "right-hand side, so that no step size or adjoint makes sense of it; accepted are modules in "
                "evaluation mode. Call .eval() on it, or say allow_training=True in the problem if this is what "
                "you want."
            )


def leaves(tensors: Iterable[Tensor], known: Iterable[Tensor] = ()) -> list[Tensor]:
    """Leaves of the autograd graph that the tensors depend on, and that require a gradient; not those that they depend
    on through known tensors alone."""
    found: dict[int, Tensor] = {}
    stops = {(x.grad_fn, x.output_nr) for x in known if x.grad_fn is not None}
    stack: list[Any] = []
    for tensor in tensors:
        if tensor.grad_fn is not None and (tensor.grad_fn, tensor.output_nr) not in stops:
            stack.append(tensor.grad_fn)
        elif tensor.requires_grad:
            found[id(tensor)] = tensor
    seen = set(stack)
    while stack:
        node = stack.pop()
        variable = getattr(node, "variable", None)
        if isinstance(variable, Tensor):
            found[id(variable)] = variable
        for parent, number in node.next_functions:
            if parent is not None and parent not in seen and (parent, number) not in stops:
                seen.add(parent)
                stack.append(parent)
    return list(found.values())
