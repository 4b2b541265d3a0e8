"""Elementwise functions with their derivatives, for tapes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from impflow_zoo.lipschitz.activations import half_sine

_CPUINFO = Path("/proc/cpuinfo")
_IS_AMD = _CPUINFO.is_file() and "AuthenticAMD" in _CPUINFO.read_text(encoding="utf-8")


class Sine:
    """`sin(h)`."""

    function: Callable[[Tensor], Tensor] = staticmethod(torch.sin)
    keeps = False  # whether the second derivative needs a map of its own beside `f` and `f'`

    def overwrite(self, h: Tensor) -> Tensor:
        """`f(h)`, in the place of `h`."""
        return _apply(torch.sin, np.sin, h, h)

    def record(self, h: Tensor, value: Tensor, kept: Tensor) -> None:
        """Write `f(h)` to `value`, which is `kept` unless `keeps`, and `f'(h)` over `h`."""
        _apply(torch.sin, np.sin, h, kept)
        _apply(torch.cos, np.cos, h, h)

    def kept(self, h: Tensor, value: Tensor) -> Tensor:
        """What `record` writes to `kept`, from `h` and `f(h)`."""
        return value

    def bend(self, kept: Tensor, slope: Tensor, t: Tensor, onto: Tensor | None) -> Tensor:
        """`f''(h) t` added to `onto`, or in the place of `t` if there is none.

        `kept` and `slope` are as `record` left them.
        """
        return t.mul_(kept).neg_() if onto is None else onto.addcmul_(t, kept, value=-1)


class HalfSine(Sine):
    """`h + sin(h)`; its second derivative needs the sine."""

    function = staticmethod(half_sine)
    keeps = True

    def overwrite(self, h: Tensor) -> Tensor:
        return h.add_(_apply(torch.sin, np.sin, h, torch.empty_like(h)))

    def record(self, h: Tensor, value: Tensor, kept: Tensor) -> None:
        _apply(torch.sin, np.sin, h, kept)
        torch.add(h, kept, out=value)
        _apply(torch.cos, np.cos, h, h).add_(1)

    def kept(self, h: Tensor, value: Tensor) -> Tensor:
        return value - h


class SiLU(Sine):
    """`h sigmoid(h)`; its second derivative needs the sigmoid."""

    function = staticmethod(functional.silu)
    keeps = True

    def overwrite(self, h: Tensor) -> Tensor:
        return functional.silu(h, inplace=True)

    def record(self, h: Tensor, value: Tensor, kept: Tensor) -> None:
        s = torch.sigmoid(h, out=kept)
        torch.mul(h, s, out=value)
        # s + value (1 - s), without cancellation where s is 1 and the value large
        torch.lerp(value, value.new_ones(()), s, out=h)

    def kept(self, h: Tensor, value: Tensor) -> Tensor:
        return torch.sigmoid(h)

    def bend(self, kept: Tensor, slope: Tensor, t: Tensor, onto: Tensor | None) -> Tensor:
        # f'' = s (1 - f') + (1 - s) f', with the sigmoid s that was kept
        second = torch.add(kept, slope).addcmul_(kept, slope, value=-2)
        return t.mul_(second) if onto is None else onto.addcmul_(t, second)


def _apply(
    by_torch: Callable[..., Tensor], by_numpy: Callable[..., Any], h: Tensor, out: Tensor
) -> Tensor:
    """A function of every entry, written to `out`.

    On processors by AMD NumPy takes less than half of the time of one thread of torch for sines in
    float32, at errors below one unit in the last place; on Intel's it takes a fifth longer.
    """
    apt = _IS_AMD and h.dtype == torch.float32 and h.device.type == "cpu"
    if not apt or torch.get_num_threads() > 2:
        return by_torch(h, out=out)
    with np.errstate(all="ignore"):  # the sine of infinity is NaN here as there, in silence
        by_numpy(h.numpy(), out=out.numpy())
    return out


# By the functions that nets are made of.
DERIVATIVES = {f.function: f for f in (Sine(), HalfSine(), SiLU())}
