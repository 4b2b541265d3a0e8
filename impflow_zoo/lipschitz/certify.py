"""Certificates: proved upper bounds on Lipschitz constants.

A bound `kappa < 1` on the net `g` makes `x + g(x)` invertible: for `x` and `x'` it stretches the
distance by at least `1 - kappa`, the margin.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import nn

from impflow_zoo.numerics.modes import without_autocast

__all__ = ["Certificate", "certify", "worst"]


@dataclass(frozen=True)
class Certificate:
    """The proved bound of one net.

    Arguments:
        name: path of the net in the model.
        bound: upper bound on its Lipschitz constant, or None where there is no proof.
        norm: of the bound.
    """

    name: str
    bound: float | None
    norm: str = "2"

    @property
    def margin(self) -> float | None:
        """`1 - bound`, which proves invertibility; None if it is not positive."""
        return None if self.bound is None or self.bound >= 1 else 1 - self.bound

    def __str__(self) -> str:
        if self.bound is None:
            return f"{self.name}: not certified"
        if self.margin is None:
            return f"{self.name}: Lip <= {self.bound:.6f}, not certified as a contraction"
        return f"{self.name}: Lip <= {self.bound:.6f} ({self.norm}-norm), margin {self.margin:.6f}"


def certify(model: nn.Module) -> list[Certificate]:
    """One certificate for every net of a residual or implicit block in a model.

    A net certifies itself through a method `certificate()`, which returns a bound. Nets without
    one, and those whose bound is NaN or negative, are listed as not certified.

    Arguments:
        model: a model, a block, or any module that holds blocks.

    Returns:
        A `Certificate` for each net, in the order of the blocks.

    Example:
        >>> from impflow_zoo import LipschitzMLP, ResFlowTransform
        >>> (c,) = certify(ResFlowTransform(LipschitzMLP(2, lipschitz=0.5)))
        >>> c.name, c.bound <= 0.5 + 1e-6
        ('net', True)
    """
    certificates = []
    for name, net in nets_of(model):
        certificate = getattr(net, "certificate", lambda: None)
        with without_autocast(net):
            found = certificate()
        bound = math.nan if found is None else float(found)
        certificates.append(Certificate(name, bound if bound >= 0 else None))
    return certificates


def nets_of(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The nets of the blocks in a model, with their paths."""
    for path, block in model.named_modules():
        names = getattr(block, "nets", ())  # modules of users may have other things there
        for name in names if isinstance(names, tuple) else ():
            yield f"{path}.{name}" if path else name, getattr(block, name)


def worst(certificates: Sequence[Certificate]) -> Certificate:
    """The largest bound of all nets; no bound if one of them has none.

    Arguments:
        certificates: of all nets.

    Returns:
        A `Certificate` with the name `all nets`.
    """
    bounds = [c.bound for c in certificates]
    proved = [bound for bound in bounds if bound is not None]
    return Certificate("all nets", max(proved) if proved and len(proved) == len(bounds) else None)
