"""A prototype for the loop's contract: an event that changes the state, in each trajectory at a time of its own."""

import torch
from torch import Tensor

from sdesolve.clock import Proposal
from sdesolve.loop import Effect
from sdesolve.methods.method import Increments, State, Step


class Bounce:
    """The ball (height, velocity) that meets the ground leaves it with ``restitution`` times its speed.

    A step that ends below the ground is taken again up to where the secant meets it, until it ends within ``tolerance``
    of it; then the velocity is turned. The bounces of each trajectory are not counted: the watcher has no state.
    """

    def __init__(self, restitution: float, tolerance: float) -> None:
        self.restitution, self.tolerance = restitution, tolerance

    def __call__(
        self, before: State, inc: Increments, step: Step, accept: Tensor, proposal: Proposal, known: None
    ) -> Effect:
        height0, (height, velocity) = before.y[:, 0], step.state.y.unbind(1)
        below = accept & (height < -self.tolerance) & (proposal.h > 0)
        # the parabola through both heights with the start's slope meets the ground here
        v, h = before.y[:, 1], proposal.h
        curve = (height - height0 - v * h) / h.clamp(min=1e-30) ** 2
        root = (-v - torch.sqrt((v * v - 4 * curve * height0).clamp(min=0))) / (2 * curve)
        fraction = (root / h.clamp(min=1e-30)).nan_to_num(0.5).clamp(1e-3, 1 - 1e-9)
        meets = accept & (height.abs() <= self.tolerance) & (velocity < 0)
        turned = torch.stack([torch.zeros_like(height), -self.restitution * velocity], 1)
        return Effect(torch.where(meets[:, None], turned, step.state.y), below, fraction, meets)
