"""Stub contenders leave no garbage, and looking for it takes a tenth of a second a turn."""

import pytest


@pytest.fixture(autouse=True)
def no_collection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.timing.gc.collect", lambda: 0)


@pytest.fixture(autouse=True)
def same_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the command tells XLA and numba is forgotten after the test."""
    for name in ("NPROC", "NUMBA_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
