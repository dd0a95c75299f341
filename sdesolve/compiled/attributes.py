"""Attributes of tensors from a user's closure, such as ``A.T``, inside a derivative and a loop.

Dynamo writes the attribute of a tensor into the graph that the tensor belongs to (torch 2.11 to 2.13). Where a loop's
body asks for that of a closure's tensor inside torch.func.vjp or jvp, the outer graph then holds a value of the
transform, and dynamo refuses the loop. Here it is written where it is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def attributes_where_they_are_asked_for() -> Iterator[None]:
    """Inside, for what dynamo traces."""
    from torch._dynamo.symbolic_convert import InstructionTranslator
    from torch._dynamo.variables.misc import GetAttrVariable

    def proxy(base: Any, attribute: str) -> Any:
        output: Any = InstructionTranslator.current_tx().output
        return output.create_proxy("call_function", getattr, (base, attribute), {})

    before = GetAttrVariable.__dict__["create_getattr_proxy"]
    GetAttrVariable.create_getattr_proxy = staticmethod(proxy)  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        GetAttrVariable.create_getattr_proxy = before  # type: ignore[method-assign]
