"""How data are brought to the scale of a model, and back.

Levels become x = -1 + 2 (k + u) / levels with fresh uniform noise u (`diffusion.quantise`); real numbers
x = (y - shift) / scale. A density p of x is then one of y: log p(y) = log p(x) - sum log scale.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sdesolve.errors import message

from ..quantise import dequantise, quantise
from .data import Data

__all__ = ["Scaling"]


NO_DENSITY = "Leave out components that are the same in all examples: they have no density."
TOO_FINE = "float32 has 7 digits, and resolves no smaller differences: subtract the mean first."


@dataclass(frozen=True)
class Scaling:
    """Between data and model.

    levels : number of levels; None for real numbers.
    shift, scale : of real numbers, one for each component of a vector, or one for all.
    """

    levels: int | None = None
    shift: tuple[float, ...] = (0.0,)
    scale: tuple[float, ...] = (1.0,)

    @classmethod
    def fit(cls, data: Data) -> Scaling:
        """For vectors to mean 0 and variance 1 in each component; for images to [-1, 1], the same for all pixels.

        Raises
        ------
        ValueError : a component that is the same in all examples, or as good as the same; one level, or images of one
            colour.
        """
        y = data.values.double()
        low, high = float(y.min()), float(y.max())
        if low == high and (data.levels is not None or y.ndim > 2):
            what = "vectors whose components" if y.ndim == 2 else "images whose pixels"
            raise ValueError(message("data", f"{what} are all {low:g}", "examples that differ"))
        if data.levels is not None:
            return cls(data.levels)
        if y.ndim > 2:
            return cls(None, ((low + high) / 2,), ((high - low) / 2,))
        shift, scale = y.mean(0), y.std(0, correction=0)
        still = scale <= 1e-6 * y.abs().amax(0)
        if bool(still.any()):
            which = ", ".join(map(str, still.nonzero().flatten().tolist()[:10]))
            got, advice = f"vectors with the same value of component {which} in all examples", NO_DENSITY
            if bool((y.amax(0) > y.amin(0))[still].any()):
                got = f"vectors whose component {which} varies by less than a millionth of its size, or not at all"
                advice = f"{TOO_FINE} {advice}"
            raise ValueError(message("data", got, "components that vary", advice))
        return cls(None, tuple(shift.tolist()), tuple(scale.tolist()))

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> Scaling:
        """The inverse of ``dataclasses.asdict``, after a way through JSON."""
        found = cls(facts["levels"], tuple(facts["shift"]), tuple(facts["scale"]))
        if found.levels is not None and (type(found.levels) is not int or found.levels < 2):
            raise ValueError(message("levels", repr(found.levels), "None, or an integer, at least 2"))
        for number in (*found.shift, *found.scale):
            if not isinstance(number, int | float) or not math.isfinite(number):
                raise ValueError(message("scaling", repr(number), "finite numbers"))
        if not all(number > 0 for number in found.scale):
            raise ValueError(message("scale", repr(found.scale), "positive numbers"))
        return found

    def to_model(self, values: Tensor, *, seed: int | None = None, generator: torch.Generator | None = None) -> Tensor:
        """x, in float32; `seed` or `generator` draws the noise below levels."""
        if self.levels is not None:
            return dequantise(values, self.levels, seed=seed, generator=generator)
        shift, scale = self._factors(values)
        return ((values.double() - shift) / scale).float()

    def to_data(self, x: Tensor) -> Tensor:
        """Levels as uint8 (int32 where there are more than 256), real numbers as float32."""
        if self.levels is not None:
            return quantise(x, self.levels).to(torch.uint8 if self.levels <= 256 else torch.int32)
        shift, scale = self._factors(x)
        return (x.double() * scale + shift).float()

    def log_volume(self, dims: int) -> float:
        """log p(x) - log p(y), for states of so many components; 0 for levels."""
        each = sum(map(math.log, self.scale))
        return each if len(self.scale) == dims else each * dims

    def variance_of_noise(self) -> float:
        """Of the uniform noise below levels, in each component of x."""
        return 0.0 if self.levels is None else (2 / self.levels) ** 2 / 12

    def _factors(self, y: Tensor) -> tuple[Tensor, Tensor]:
        kind = {"dtype": torch.float64, "device": y.device}
        return torch.tensor(self.shift, **kind), torch.tensor(self.scale, **kind)  # type: ignore[arg-type]
