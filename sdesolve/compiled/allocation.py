"""What is never written needs no memory: buffers of loop bodies that inductor has fused away.

A value that lives inside one kernel is not stored, and inductor notes its buffer as removed; but a loop's body notes so
in a list of its own, which is not looked at when the code is put together (torch 2.11 to 2.13), and each step allocates
them all. Here the bodies share their parent's list. A Lorenz step took half the time.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

# of the graph whose code is written, by the writer, which its subgraphs share
_removed: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()


def shared_removals() -> Any:
    """A pass of inductor's scheduler, which sees each graph before its code is written, parents first."""
    from torch._inductor.custom_graph_pass import CustomSchedulerPass, get_hash_for_files
    from torch._inductor.virtualized import V

    class SharedRemovals(CustomSchedulerPass):
        def __call__(self, nodes: list[Any]) -> list[Any]:
            V.graph.removed_buffers = _removed.setdefault(V.graph.wrapper_code, V.graph.removed_buffers)
            return nodes

        def uuid(self) -> Any:
            return get_hash_for_files((__file__,))

    return SharedRemovals()
