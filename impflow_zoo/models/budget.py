"""How much a model may take: counted while it is made, before memory is taken.

A model of more numbers needs a larger limit:

    from impflow_zoo.models import budget
    budget.NUMBERS = 2_000_000_000
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from impflow_zoo.models.fields import ConfigError

__all__ = ["NUMBERS", "Budget", "without_numbers"]

NUMBERS = 1_000_000_000  # of a model, 4 GB in float32
_TENSORS = 1_000_000

T = TypeVar("T")

_MAKERS = (
    torch.arange,
    torch.empty,
    torch.eye,
    torch.full,
    torch.linspace,
    torch.ones,
    torch.rand,
    torch.randint,
    torch.randn,
    torch.randperm,
    torch.zeros,
)


class Budget(TorchFunctionMode):
    """Within the block, new tensors are counted; those beyond the budget are not made.

    It holds for blocks of every kind, those of other packages among them, because all layers make
    their parameters by the same functions of torch.

    Arguments:
        numbers: how many numbers the tensors may hold together.
        tensors: how many tensors may be made.
        message: what the error says.

    Raises:
        ConfigError: for the first tensor beyond the budget.

    Example:
        >>> with Budget(100, 10, "the layer is too large"):
        ...     layer = torch.nn.Linear(9, 9)
    """

    def __init__(self, numbers: float, tensors: float, message: str) -> None:
        super().__init__()
        self._numbers, self._tensors, self._message = numbers, tensors, message

    @classmethod
    def of_any(cls) -> Budget:
        """What any model may take."""
        message = (
            f"the config needs more than {NUMBERS:,} numbers: use smaller sizes, or raise "
            "impflow_zoo.models.budget.NUMBERS"
        )
        return cls(NUMBERS, _TENSORS, message)

    @classmethod
    def of(cls, weights: Mapping[str, Tensor], name: str) -> Budget:
        """What a model may take that is to have some weights: a few times as much, and a little."""
        numbers, tensors = sum(tensor.numel() for tensor in weights.values()), len(weights)
        message = (
            f"{name}: the config makes far more than its weights hold, {numbers:,} numbers in "
            f"{tensors:,} tensors: weights of another architecture?"
        )
        return cls(4 * numbers + 10_000_000, 4 * tensors + 1000, message)

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        options = kwargs or {}
        if function in _MAKERS:
            plain = {key: value for key, value in options.items() if key != "generator"}
            self._numbers -= function(*args, **{**plain, "device": "meta"}).numel()
            self._tensors -= 1
            if self._numbers < 0 or self._tensors < 0:
                raise ConfigError(self._message)
        return function(*args, **options)


def without_numbers(make: Callable[[], T]) -> T:
    """What a function makes of tensors without numbers, which take neither memory nor time.

    Layers of other packages may look at their numbers when they are made; then they have some.
    Torch's generator is left as it was.

    Arguments:
        make: the function.
    """
    with torch.random.fork_rng(devices=[]):
        try:
            with torch.device("meta"):
                return make()
        except (RuntimeError, TypeError):  # as tensors without numbers answer
            with torch.device("cpu"):
                return make()
