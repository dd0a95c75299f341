"""What fit() was asked for: checked, and described so that a checkpoint is resumed by the same training alone."""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Mapping
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from sdesolve.errors import message

from .denoiser import Denoiser
from .process import Process

__all__ = ["check_kinds", "check_settings", "checked_steps", "described", "described_process", "digest"]


def check_kinds(denoiser: Any, data: Any, loss: Any, transform: Any) -> None:
    """A denoiser, a tensor that can be trained on, a loss that can be called."""
    if not isinstance(denoiser, Denoiser):
        raise TypeError(message("denoiser", type(denoiser).__name__, "a diffusion.Denoiser"))
    if not isinstance(data, Tensor):
        advice = "Write torch.from_numpy(data)." if type(data).__name__ == "ndarray" else "Stack the examples."
        raise TypeError(message("data", type(data).__name__, "a tensor (n, *state)", advice))
    if transform is None and not data.is_floating_point():
        advice = "Convert them, as by data.float(), or by a transform, as diffusion.dequantise does."
        raise TypeError(message("data", str(data.dtype).removeprefix("torch."), "floating-point numbers", advice))
    if loss is not None and not callable(loss):
        advice = f"Write diffusion.DenoisingLoss({loss!r})." if isinstance(loss, str) else ""
        raise TypeError(message("loss", repr(loss), "a function (denoiser, examples, generator) -> (batch,)", advice))


def checked_steps(
    data: Tensor,
    steps: int | None,
    epochs: float | None,
    batch_size: int,
    resume: bool,
    checkpoint: str | os.PathLike[str] | None,
) -> int:
    """How many steps there are to be."""
    for name, number in (("steps", steps), ("batch_size", batch_size)):
        if number is not None and (isinstance(number, bool) or not isinstance(number, Integral)):
            raise TypeError(message(name, repr(number), "an integer"))
    if epochs is not None and not math.isfinite(epochs):
        raise ValueError(message("epochs", repr(epochs), "a positive, finite number"))
    if data.ndim < 2 or len(data) == 0:
        raise ValueError(message("data", f"shape {tuple(data.shape)}", "(n, *state) with n >= 1"))
    if not 1 <= batch_size <= len(data):
        raise ValueError(message("batch_size", repr(batch_size), f"1 to the number of examples, {len(data)}"))
    if (steps is None) == (epochs is None):
        raise ValueError(message("steps", "both or neither of steps and epochs", "one of them"))
    if resume and checkpoint is None:
        raise ValueError(message("resume", "True without checkpoint", "resume=True with checkpoint=path"))
    count = steps if steps is not None else math.ceil((epochs or 0) * len(data) / batch_size)
    if count < 1:
        raise ValueError(message("steps", repr(count), "at least one step"))
    return count


def check_settings(lr: float, checkpoint_every: int, ema: float, clip: float | None, facts: Mapping[str, Any]) -> None:
    """Numbers within their ranges, facts that leave those of fit() alone."""
    if not 0 <= lr < math.inf:
        raise ValueError(message("lr", repr(lr), "a finite number >= 0"))
    if checkpoint_every < 1:
        raise ValueError(message("checkpoint_every", repr(checkpoint_every), "at least 1"))
    if not 0 <= ema < 1:
        raise ValueError(message("ema", repr(ema), "a number from 0, no average, to below 1"))
    if clip is not None and not clip > 0:
        raise ValueError(message("clip", repr(clip), "a positive norm, or None for no limit"))
    taken = {"settings", "step"} & facts.keys()
    if taken:
        raise ValueError(
            message("facts", f"the names {sorted(taken)}", "other names", "Checkpoints have these already.")
        )


def described(thing: object) -> str:
    """Its repr, without the address that another run would have elsewhere."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(thing))


def described_process(process: Process) -> str:
    """A repr that shows no parameters says too little: log SNR and shift at three times tell processes apart."""
    said = described(process)
    if said == repr(process):
        return said
    t = process.end * torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
    shown = {"log SNR": process.log_snr(t), **({"shift": process.shift(t)} if process.shifted else {})}
    values = (f"{name} {', '.join(f'{value:.6g}' for value in found.tolist())}" for name, found in shown.items())
    return f"{said} with {' and '.join(values)}"


def digest(data: Tensor) -> str:
    """Of the bytes of a tensor."""
    return hashlib.sha256(data.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()[:16]
