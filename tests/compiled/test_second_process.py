"""A second process finds on disk what the first has compiled, and takes no other function's graph for it."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.compile

SCRIPT = """
import sys, torch, sdesolve as ss
from torch._dynamo.utils import counters
k = float(sys.argv[1])
f = ss.ODE(lambda t, y: -k * torch.sin(y))
y0, ts = torch.ones(3, 1, dtype=torch.float64), torch.tensor([0.0, 1.0], dtype=torch.float64)
with torch.no_grad():
    compiled, eager = (ss.solve(f, y0, ts, method="euler", dt=0.1, compile=c).ys for c in (True, False))
assert torch.allclose(compiled, eager, rtol=1e-12, atol=0)
print(counters["inductor"]["fxgraph_cache_hit"], counters["inductor"]["fxgraph_cache_miss"])
"""


def test_a_second_process_finds_the_graph_and_another_constant_is_another_graph(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    run = lambda k: subprocess.run([sys.executable, "-c", SCRIPT, k], capture_output=True, text=True, check=True)
    found = [run(k).stdout.split() for k in ("0.5", "0.5", "0.75")]
    assert found == [["0", "1"], ["1", "0"], ["0", "1"]]
