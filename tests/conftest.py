"""What every test shares: the same hypothesis examples each time; one thread, as workers share the cores."""

import os
import types
from collections import OrderedDict

import pytest
import torch
from hypothesis import settings

from sdesolve.compiled import graphs

settings.register_profile("ci", derandomize=True, deadline=None, print_blob=True)
settings.register_profile("dev", deadline=None, max_examples=300)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def traced_alone(request, monkeypatch):
    """In tests that are marked so, solves with compile=True are traced into graphs, and these run without code of their
    own: a fifth of the time, where a test asks what is in a graph. What code is made of graphs, other tests ask."""
    if request.node.get_closest_marker("traced") is None:
        return

    def compile(function, device):
        code = function.__code__.replace()
        own = types.FunctionType(code, function.__globals__, function.__name__, None, function.__closure__)
        return torch.compile(own, backend="eager", fullgraph=True, dynamic=False)

    monkeypatch.setattr(graphs, "_compile", compile)
    for name, empty in (("_kept", OrderedDict()), ("_static", set())):
        monkeypatch.setattr(graphs, name, empty)
