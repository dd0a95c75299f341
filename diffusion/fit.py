"""Training of a denoiser: averaged weights, clipped gradients, checkpoints, and resuming to the very same
result."""

from __future__ import annotations

import copy
import math
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from sdesolve.errors import message
from sdesolve.progress import Report, reporting

from .checkpoint import (
    CheckpointError,
    load_checkpoint,
    load_into,
    save_checkpoint,
    under_prefix,
    with_prefix,
)
from .denoiser import Denoiser
from .fit_settings import check_kinds, check_settings, checked_steps, described, described_process, digest
from .loss import DenoisingLoss, Loss
from .prior import derived_seed

__all__ = ["Fit", "TrainingInterrupted", "fit"]

Transform = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class Fit:
    """What came of a training.

    denoiser : a copy of the denoiser with averaged weights, in evaluation mode; its parameters do not require gradients
        (``denoiser.requires_grad_()`` turns them on, to differentiate samples or likelihoods).
    losses : the loss of every step, ``(steps,)``, before that step's update.
    """

    denoiser: Denoiser
    losses: Tensor


class TrainingInterrupted(KeyboardInterrupt):
    """Ctrl-C during training. ``step`` steps are done; ``checkpoint`` is the file to resume from, or None."""

    def __init__(self, step: int, steps: int, checkpoint: Path | None) -> None:
        kept = (
            f"the training so far is in {checkpoint}; call again with resume=True to go on from there"
            if checkpoint
            else "nothing was kept; pass checkpoint=path to be able to resume"
        )
        super().__init__(f"training interrupted after {step} of {steps} steps; {kept}")
        self.step, self.checkpoint = step, checkpoint


def fit(
    denoiser: Denoiser,
    data: Tensor,
    *,
    steps: int | None = None,
    epochs: float | None = None,
    batch_size: int = 128,
    lr: float = 2e-3,
    warmup: int = 100,
    ema: float = 0.999,
    clip: float | None = 1.0,
    loss: Loss | None = None,
    transform: Transform | None = None,
    seed: int = 0,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int = 500,
    resume: bool = False,
    facts: Mapping[str, Any] | None = None,
    progress: bool | Report = True,
    on_step: Callable[[int, float], None] | None = None,
) -> Fit:
    """Train `denoiser` on `data` by Adam; the learning rate rises over `warmup` steps and falls along a
    cosine to 0.

    All randomness of step n (its examples, times, noise, dropout) is a function of `seed` and n. A training
    that was stopped and resumed therefore gives the same bits as one that was not, on the same machine with
    as many threads. Torch's global generator is left as it was found.

    Parameters
    ----------
    denoiser : trained in place; put into training mode and, at the end, back into evaluation mode.
    data : examples ``(n, *state)``, all visited once before any is visited twice. If `transform` is given, of
        any dtype.
    steps, epochs : length of the training; one of them.
    batch_size : examples a step, at most n.
    lr : the highest learning rate.
    ema : decay of the average of the weights, d = min(ema, (1 + n) / (10 + n)) at step n.
    clip : greatest norm of the gradient; None for no limit.
    loss : called as ``loss(denoiser, examples, generator)``, for one number an example, such as those of
        `diffusion.loss`; its repr is kept in checkpoints. Default ``DenoisingLoss()``.
    transform : ``transform(batch, generator) -> batch``, applied anew each time an example is visited:
        dequantisation, augmentation. Draw from the generator given, or resuming will not be exact.
    checkpoint : file to write every `checkpoint_every` steps, at the end, and on Ctrl-C.
    resume : go on from the checkpoint if the file exists, else begin. All settings must be the same, `steps` too: the
        learning rate's schedule is made for them.
    facts : JSON-serialisable facts to keep in the checkpoint, such as how to build the network.
    progress : True for a bar, False, or a function of the finished fraction.
    on_step : called as ``on_step(n, loss)`` after step n = 1, 2, ...

    Raises
    ------
    TypeError : no Denoiser, no tensor, integers without `transform`, a loss that cannot be called.
    ValueError : arguments outside the ranges above; no parameter to train.
    CheckpointError : the checkpoint to resume from belongs to a training with other settings.
    FloatingPointError : a loss or a gradient that is not finite; the last checkpoint stays.
    TrainingInterrupted : Ctrl-C; a KeyboardInterrupt that says where the checkpoint is.
    """
    check_kinds(denoiser, data, loss, transform)
    steps = checked_steps(data, steps, epochs, batch_size, resume, checkpoint)
    check_settings(lr, checkpoint_every, ema, clip, facts or {})
    data = data.detach()
    training = _Training(denoiser, steps, lr, warmup, ema, clip, loss or DenoisingLoss(), seed)
    settings = {
        "steps": steps, "batch_size": batch_size, "lr": lr, "warmup": warmup, "ema": ema, "clip": clip,
        "loss": described(training.loss), "seed": seed, "examples": len(data), "shape": list(data.shape[1:]),
        "data": digest(data), "prediction": denoiser.prediction,
        "sigma_data": denoiser.sigma_data if denoiser.prediction == "edm" else None,
        "process": described_process(denoiser.process),
    }  # fmt: skip
    path = None if checkpoint is None else Path(checkpoint)

    def save() -> None:
        if path is not None and training.whole:
            save_checkpoint(path, training.tensors(), {"settings": settings, "step": training.step, **(facts or {})})

    if resume and path is not None and path.exists():
        training.restore(path, settings)
    first = training.step
    denoiser.train()
    with (
        _own_randomness(),
        _deferred_interrupt() as interrupted,
        reporting(progress, "training") as report,
    ):
        try:
            while training.step < steps:
                generator = _generator(seed, f"step {training.step}", data.device)
                batch = data[_examples(len(data), training.step, batch_size, seed).to(data.device)]
                batch = batch if transform is None else transform(batch, generator)
                value = training.advance(batch, generator)
                if on_step is not None:
                    on_step(training.step, value)
                if report is not None:
                    report(training.step / steps)
                if interrupted():
                    raise KeyboardInterrupt
                if training.step % checkpoint_every == 0 and training.step < steps:
                    save()
        except KeyboardInterrupt:
            save()
            raise TrainingInterrupted(training.step, steps, path) from None
    if training.step > first or first == 0:
        save()
    denoiser.eval()
    return Fit(training.average.eval(), torch.tensor(training.losses))


class _Training:
    """What changes while training goes on: weights, their average, Adam's moments, the losses so far."""

    def __init__(
        self,
        denoiser: Denoiser,
        steps: int,
        lr: float,
        warmup: int,
        ema: float,
        clip: float | None,
        loss: Loss,
        seed: int,
    ) -> None:
        self.denoiser, self.steps, self.lr, self.warmup = denoiser, steps, lr, warmup
        self.ema, self.clip, self.loss, self.seed = ema, clip, loss, seed
        self.parameters = [p for p in denoiser.parameters() if p.requires_grad]
        if not self.parameters:
            frozen = any(True for _ in denoiser.parameters())
            got = "a network whose parameters are all frozen" if frozen else "a network without trainable parameters"
            advice = "Write denoiser.requires_grad_(), as for one that fit returned." if frozen else ""
            raise ValueError(message("denoiser", got, "an nn.Module with parameters that require gradients", advice))
        self.average = copy.deepcopy(denoiser).requires_grad_(False)
        self.optimizer = torch.optim.Adam(self.parameters, lr=lr, betas=(0.9, 0.99))
        self.losses: list[float] = []
        self.whole = True  # False while a step is half done

    @property
    def step(self) -> int:
        return len(self.losses)

    def advance(self, batch: Tensor, generator: torch.Generator) -> float:
        """One step of Adam; whatever the network itself draws (dropout) comes from torch's global
        generator."""
        self.whole = False
        torch.manual_seed(derived_seed(self.seed, f"network {self.step}"))
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(self.step)
        loss = self.loss(self.denoiser, batch, generator).mean()
        value = loss.item()
        if not math.isfinite(value):
            advice = "Lower lr, or look for NaN in the data."
            raise FloatingPointError(message("loss", f"{value} at step {self.step}", "a finite loss", advice))
        self.optimizer.zero_grad()
        loss.backward()
        norm = float(nn.utils.clip_grad_norm_(self.parameters, math.inf if self.clip is None else self.clip))
        if not math.isfinite(norm):
            advice = (
                "Look for a root, a quotient or a logarithm in the network or the loss whose derivative is infinite."
            )
            raise FloatingPointError(message("gradient", f"norm {norm} at step {self.step}", "a finite one", advice))
        self.optimizer.step()
        self._update_average()
        self.losses.append(value)
        self.whole = True
        return value

    def learning_rate(self, step: int) -> float:
        return self.lr * min(1.0, (step + 1) / max(self.warmup, 1)) * 0.5 * (1 + math.cos(math.pi * step / self.steps))

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(self.ema, (1 + self.step) / (10 + self.step))
        averages: list[Tensor] = list(self.average.parameters())
        weights: list[Tensor] = list(self.denoiser.parameters())
        torch._foreach_lerp_(averages, weights, 1 - decay)
        for kept, new in zip(self.average.buffers(), self.denoiser.buffers(), strict=True):
            kept.copy_(new)

    def tensors(self) -> dict[str, Tensor]:
        moments = {
            f"{index}/{name}": value
            for index, state in self.optimizer.state_dict()["state"].items()
            for name, value in state.items()
        }
        return {
            **with_prefix("weights", self.denoiser.state_dict()),
            **with_prefix("average", self.average.state_dict()),
            **with_prefix("optimizer", moments),
            "losses": torch.tensor(self.losses, dtype=torch.float64),
        }

    def restore(self, path: Path, settings: Mapping[str, Any]) -> None:
        tensors, facts = load_checkpoint(path)
        kept = facts.get("settings")
        kept = kept if isinstance(kept, dict) else {}
        changed = [f"{k}={kept.get(k)!r} there, {v!r} here" for k, v in settings.items() if kept.get(k) != v]
        if changed:
            accepted = "a checkpoint of a training with the same settings"
            advice = "Call with the settings of the checkpoint, or with resume=False to begin anew."
            raise CheckpointError(message("checkpoint", f"{path} ({'; '.join(changed)})", accepted, advice))
        losses = tensors.get("losses")
        if losses is None or losses.ndim != 1 or len(losses) != facts.get("step") or len(losses) > self.steps:
            got = f"{path}, whose losses are not those of the {facts.get('step')!r} steps that it tells of"
            raise CheckpointError(message("checkpoint", got, "a file written by diffusion.fit"))
        moments = self._moments(under_prefix("optimizer", tensors), path)
        load_into(self.denoiser, under_prefix("weights", tensors), path)
        load_into(self.average, under_prefix("average", tensors), path)
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})
        self.losses = losses.tolist()

    def _moments(self, tensors: Mapping[str, Tensor], path: Path) -> dict[int, dict[str, Tensor]]:
        """Of Adam, by the parameter's number: how many steps it took, and two moments of the parameter's shape."""
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            index, _, field = name.partition("/")
            state.setdefault(int(index) if index.isdecimal() else -1, {})[field] = value
        for number, fields in state.items():
            size = self.parameters[number].shape if 0 <= number < len(self.parameters) else None
            expected = {"step": torch.Size([]), "exp_avg": size, "exp_avg_sq": size}
            if size is None or {field: value.shape for field, value in fields.items()} != expected:
                got = f"{path}, of another network or changed (its optimizer's moments)"
                raise CheckpointError(message("checkpoint", got, "a checkpoint of the same network"))
        return state


def _generator(seed: int, purpose: str, device: torch.device | str) -> torch.Generator:
    return torch.Generator(device).manual_seed(derived_seed(seed, purpose))


def _examples(n: int, step: int, batch_size: int, seed: int) -> Tensor:
    """Indices of the examples of a step: the data in a new order each epoch, read batch after batch."""
    position = torch.arange(step * batch_size, (step + 1) * batch_size)
    epochs = position // n
    parts = []
    for epoch in epochs.unique().tolist():
        order = _generator(seed, f"epoch {epoch}", "cpu")
        parts.append(torch.randperm(n, generator=order)[position[epochs == epoch] % n])
    return torch.cat(parts)


@contextmanager
def _own_randomness() -> Iterator[None]:
    """Leave torch's global generator (which dropout draws from) as it was found."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if torch.cuda.is_available() else []):
        yield


@contextmanager
def _deferred_interrupt() -> Iterator[Callable[[], bool]]:
    """Ctrl-C waits until the step is done, so that a checkpoint never holds half of one; a second one does
    not wait.

    Only the main thread may take over signals; elsewhere nothing changes.
    """
    pressed = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, before)
