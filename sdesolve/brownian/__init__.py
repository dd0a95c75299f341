"""Where randomness comes from: a counter-based generator and pure functions of their names.

- `philox`: the generator, 128-bit counter and 64-bit key -> four 32-bit words
- `normal`: words -> uniforms -> normals
- `counter`: the frozen layout of counters; normals of cells and steps, for eager and compiled loops
- `grid`: which cells the steps of a fixed-step solve are
- `levy`: increments with their Levy areas, and how those of neighbours join
- `bridge`: the dyadic bridge within a cell
- `window`: increments over many lattice intervals at once
- `correlation`: correlated motions from independent ones
- `path`: `BrownianPath`, a Brownian motion on a grid of cells
- `steps`: increments of the steps of a solve, in blocks
"""

from sdesolve.brownian.counter import cell_normals, key_words, off_grid_normals
from sdesolve.brownian.grid import step_cells
from sdesolve.brownian.path import BrownianPath
from sdesolve.brownian.philox import philox4x32

__all__ = ["BrownianPath", "cell_normals", "key_words", "off_grid_normals", "philox4x32", "step_cells"]
