"""The same steps as compiled graphs: a chunk of them is a ``while_loop`` under ``torch.compile``, its noise inside.

- `graphs`: compiled functions, kept by structure; what cannot be compiled
- `layout`: what is carried through a loop, as few tensors
- `components`, `component_graph`, `allocation`: what inductor is made to do with small states
- `fixed`, with `weight`: chunks of fixed steps
- `adaptive`: chunks of adaptive steps
- `lift`, `step`: a step as a function of all it reads
- `replay`: recorded steps taken again, backwards, for gradients
"""

from sdesolve.compiled.adaptive import compile_adaptive
from sdesolve.compiled.fixed import compile_fixed

__all__ = ["compile_adaptive", "compile_fixed"]
