"""Processes by name, as the command line and the header of a model write them: ``vp``, ``vp:beta_max=15``."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from sdesolve.errors import message

from ..process import Process
from ..processes import EDM, VE, VP, Cosine, RectifiedFlow, SubVP

__all__ = ["PROCESSES", "named_process", "process_name"]

PROCESSES: dict[str, type[Any]] = {
    "vp": VP,
    "subvp": SubVP,
    "ve": VE,
    "cosine": Cosine,
    "rectified-flow": RectifiedFlow,
    "edm": EDM,
}


def named_process(text: str) -> Process:
    """The process of ``name`` or ``name:parameter=value,parameter=value``.

    Raises
    ------
    ValueError : an unknown name or parameter, a value that is no number or not one of the process.

    Examples
    --------
    >>> named_process("vp:beta_max=15")
    VP(beta_min=0.1, beta_max=15.0)
    """
    name, _, rest = text.partition(":")
    if name not in PROCESSES:
        raise ValueError(message("process", repr(text), " or ".join(PROCESSES)))
    accepted = [field.name for field in fields(PROCESSES[name])]
    values: dict[str, float] = {}
    for part in rest.split(",") if rest else []:
        parameter, _, value = part.partition("=")
        if parameter not in accepted:
            of_process = f"the parameters of {name}: {', '.join(accepted) or 'it has none'}"
            raise ValueError(message("process", repr(text), of_process, "Write it as vp:beta_min=0.1,beta_max=15."))
        try:
            values[parameter] = float(value)
        except ValueError as error:
            raise ValueError(message("process", repr(text), f"a number for {parameter}")) from error
    process: Process = PROCESSES[name](**values)
    return process


def process_name(process: Process) -> str:
    """The text that gives a process back, with all its parameters.

    Examples
    --------
    >>> process_name(VP())
    'vp:beta_min=0.1,beta_max=20.0'
    """
    name = next(name for name, kind in PROCESSES.items() if type(process) is kind)
    values = ",".join(f"{field.name}={getattr(process, field.name)!r}" for field in fields(PROCESSES[name]))
    return f"{name}:{values}" if values else name
