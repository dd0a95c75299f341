"""Stub contenders leave no garbage, and looking for it takes a tenth of a second a turn."""

import pytest


@pytest.fixture(autouse=True)
def no_collection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.timing.gc.collect", lambda: 0)
