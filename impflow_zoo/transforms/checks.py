"""What a block refuses: inputs, contexts and parameters that do not go together."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from impflow_zoo.numerics.finite import check_finite
from impflow_zoo.numerics.modes import is_compiling
from impflow_zoo.numerics.report import Checks

__all__ = ["check_call", "check_channels"]


def check_call(module: nn.Module, inputs: Tensor, context: Tensor | None, checks: Checks) -> None:
    """Refuse inputs and contexts of a block as `ResidualBlock.forward` says.

    Arguments:
        module: the block, for its parameters.
        inputs, context: of the call.
        checks: receives what is checked at the end of the call: whether all numbers are finite.

    Raises:
        TypeError: for inputs or contexts that are no tensors.
        ValueError: for a type, shape or device that does not go with the others.
    """
    for name, x in (("inputs", inputs), ("context", context)):
        if not (isinstance(x, Tensor) or (x is None and name == "context")):
            raise TypeError(f"{name} of type {type(x).__name__}: a torch tensor is needed")
    if not inputs.is_floating_point():
        raise ValueError(
            f"inputs of type {inputs.dtype}: floating point is needed "
            "(images: dequantise to [0, 1] first)"
        )
    if inputs.dim() < 2:
        raise ValueError(f"inputs of shape {tuple(inputs.shape)}: rows are needed, [B, ...]")
    if context is not None and len(context) != len(inputs):
        raise ValueError(f"{len(context)} context rows for {len(inputs)} input rows")
    parameters = list(module.parameters())
    _check_place(inputs, context, [p for p in parameters if p.is_floating_point()])
    for name, x in (("inputs", inputs), ("context", context)):
        if x is not None and x.is_floating_point():
            # Their sum is not finite if an entry is not.
            checks.add(x.detach().sum(), partial(check_finite, x, name))


def check_channels(inputs: Tensor, features: int, dtype: torch.dtype) -> None:
    """Refuse what is neither rows, `[B, features]`, nor maps, `[B, features, H, W]`.

    Arguments:
        inputs: what is given.
        features: size of the rows, or channels of the maps.
        dtype: the type that is needed.

    Raises:
        ValueError: for another shape or type.
    """
    if inputs.dim() not in (2, 4) or inputs.shape[1] != features:
        raise ValueError(
            f"inputs of shape {tuple(inputs.shape)}: [B, {features}] or [B, {features}, H, W] is "
            "needed"
        )
    if inputs.dtype != dtype:
        raise ValueError(f"inputs of type {inputs.dtype}: this transform takes {dtype}")


def _check_place(inputs: Tensor, context: Tensor | None, parameters: list[nn.Parameter]) -> None:
    """A `ValueError` where inputs, context and parameters do not go together."""
    others = [*parameters] if context is None else [context, *parameters]
    devices = {t.device for t in others} - {inputs.device}
    if devices:
        raise ValueError(
            f"inputs are on {inputs.device}, context or parameters on "
            f"{', '.join(sorted(map(str, devices)))}: move them to one device with .to(device)"
        )
    if not is_compiling() and any(p.is_inference() for p in parameters):
        raise ValueError(
            "parameters were made within torch.inference_mode: copy them outside of it"
        )
    for narrow in {p.dtype for p in parameters} - {torch.float32, torch.float64}:
        raise ValueError(
            f"parameters of type {narrow}: torch.float32 or torch.float64 is needed, convert them "
            "by .float()"
        )
    dtype = torch.promote_types(inputs.dtype, torch.float32)
    types = {"parameters": {p.dtype for p in parameters}}
    if context is not None and context.is_floating_point():
        types["context"] = {context.dtype}
    # Types of 32 bits and less go together under autocast.
    if torch.is_autocast_enabled(inputs.device.type) and torch.float64 not in {dtype}.union(
        *types.values()
    ):
        return
    for name, own in types.items():
        if own and dtype not in own:
            names = ", ".join(sorted(map(str, own)))
            raise ValueError(
                f"inputs of type {dtype}, {name} of type {names}: convert either, by .to({names}) "
                f"or .to({dtype})"
            )
