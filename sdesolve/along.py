"""Tensors of the batch that functions carry with them: rates of each trajectory, say, in a closure or a module.

Where a part of the trajectories goes on alone, the functions are to read the rows of these. Wherever torch is called,
`Along` puts the rows in the place of the tensor: what a function is made of does not matter. Each call costs some 3 us.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode


class Along(TorchFunctionMode):
    """Inside, of some tensors a part of the rows is read: pairs of the tensors and these rows, by the tensors' ids."""

    def __init__(self, rows: dict[int, tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.rows = rows

    def part(self, lanes: Tensor) -> Along:
        """Of these rows some."""
        return Along({k: (x, rows.index_select(0, lanes)) for k, (x, rows) in self.rows.items()})

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if kwargs:
            return func(*map(self._put, args), **{name: self._put(x) for name, x in kwargs.items()})
        return func(*map(self._put, args))

    def _put(self, x: Any) -> Any:
        found = self.rows.get(id(x))
        if found is not None:
            return found[1]
        return type(x)(map(self._put, x)) if type(x) in (tuple, list) else x
