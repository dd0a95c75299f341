"""How far a solve has come, shown as a bar or handed to a function."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sdesolve.errors import message

Report = Callable[[float], None]


@contextmanager
def reporting(progress: bool | Report, title: str) -> Iterator[Report | None]:
    """A function that takes the finished fraction, or None. It acts at most ten times a second, and at the end."""
    if not progress:
        yield None
        return
    if callable(progress):
        yield _seldom(progress)
        progress(1.0)
        return
    if progress is not True:
        raise TypeError(message("progress", repr(progress), "True, False or a function of the finished fraction"))
    try:
        from rich.progress import Progress
    except ImportError as error:
        advice = "Install it with pip install rich, or pass a function of the finished fraction."
        raise ImportError(message("progress", "True without the package rich", "True with it", advice)) from error
    with Progress() as bar:
        task = bar.add_task(title, total=1.0)
        yield _seldom(lambda fraction: bar.update(task, completed=fraction))
        bar.update(task, completed=1.0)


def _seldom(act: Report) -> Report:
    last, most = 0.0, 0.0

    def report(fraction: float) -> None:
        nonlocal last, most
        now, most = time.monotonic(), max(most, fraction)
        if now - last > 0.1:
            last = now
            act(most)

    return report
