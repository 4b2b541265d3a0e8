"""Which rows, or which weights, hold NaN or infinity: looked for where a call fails."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn

from impflow_zoo.numerics.modes import is_compiling, seen
from impflow_zoo.numerics.rows import listed

__all__ = [
    "NotFiniteError",
    "assert_all",
    "blaming_weights",
    "check_finite",
    "overflows",
    "refuse_rows",
    "too_large",
]


class NotFiniteError(ValueError):
    """A tensor holds NaN or infinity."""


def check_finite(x: Tensor, name: str, why: str = "") -> None:
    """Refuse NaN and infinity, naming the rows, and why they may be there.

    Arguments:
        x: with shape `[B, ...]`.
        name: of the tensor, in the message.
        why: a reason, in the message.

    Raises:
        NotFiniteError: if there are any.
    """
    finite = torch.isfinite(x[:, None].flatten(1)).all(dim=1)
    if is_compiling():
        assert_all(finite, f"{name} with NaN or infinity")
    else:
        refuse_rows(~finite, f"{name} with", why)


def assert_all(conditions: Tensor, message: str) -> None:
    """Within compiled and exported code, let it fail where a condition does not hold.

    Such code does not wait for an answer, so it cannot say which rows they are.
    """
    remedy = "call the model itself, neither compiled nor exported: it says where"
    torch._assert_async(conditions.all(), f"{message}: {remedy}")


def refuse_rows(rows: Tensor, what: str, why: str = "") -> None:
    """Refuse some rows, given by a mask, `[B]`, for their NaN or infinity.

    Raises:
        NotFiniteError: if there are any.
    """
    rows = seen(rows)
    if bad := rows.nonzero()[:, 0].tolist():
        text = f"{what} NaN or infinity in {len(bad)} of {len(rows)} rows: {listed(bad)}"
        raise NotFiniteError(f"{text}: {why}" if why else text)


def blaming_weights(module: nn.Module) -> AbstractContextManager[None]:
    """If the block of code fails because of a weight of the module, name the weight instead.

    Raises:
        NotFiniteError: naming a weight that is not finite, or whose squares are not.
    """
    return nullcontext() if is_compiling() else _blaming_weights(module)


@contextmanager
def _blaming_weights(module: nn.Module) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # NaN leads to errors of any kind
        tensors = (*module.named_parameters(), *module.named_buffers())
        weights = [(name, t.detach()) for name, t in tensors if not t.is_meta]
        for name, weight in weights:
            if not bool(seen(weight.isfinite().all()[None]).all()):
                raise NotFiniteError(
                    f"the weight {name} holds NaN or infinity: load finite weights, or train with "
                    "a smaller learning rate"
                ) from None
        if type(error) not in (ValueError, TypeError):  # by which arguments are refused
            for name, weight in weights:
                if overflows(weight):
                    raise NotFiniteError(f"the weight {name} {too_large(weight)}") from None
        raise


def overflows(weight: Tensor) -> bool:
    """Whether a weight is finite and its norm is not, as the sum of its squares overflows."""
    if not weight.is_floating_point():
        return False
    infinite = weight.square().sum().isinf() & weight.isfinite().all()
    return bool(seen(infinite[None]).any())


def too_large(weight: Tensor) -> str:
    """Why a weight that overflows is refused."""
    largest = float(seen(weight.abs().amax()[None]).amax())
    return (
        f"has entries up to {largest:.1e}: its norm is too large for "
        f"{weight.dtype}, and what it is part of has no bound. Load smaller weights, or train with "
        "a smaller learning rate"
    )
