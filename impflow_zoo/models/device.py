"""Devices, as users name them."""

from __future__ import annotations

import torch

from impflow_zoo.models.fields import ModelError

__all__ = ["usable_device"]


def usable_device(device: str | torch.device) -> torch.device:
    """The device, if something can be put there.

    Raises:
        ModelError: saying what torch says about it.
    """
    try:
        torch.empty(0, device=device)
        if torch.device(device).type == "meta":
            raise RuntimeError("it holds no numbers; cpu, cuda or cuda:1, say, is needed")
        return torch.device(device)
    except (AssertionError, ImportError, RuntimeError) as error:  # a torch without CUDA asserts
        said = str(error).split("\n")[0]
        unknown = (
            isinstance(error, ImportError)
            or "device type" in said
            or said.startswith("Could not run")
        )
        if not isinstance(device, torch.device) and unknown:
            said = "cpu, cuda or cuda:1, say, is needed"
        raise ModelError(f"device={str(device)!r}: {said[:200]}") from None
