"""Loading weights: what does not fit is said in one line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

__all__ = ["PlainLoading", "mismatch"]


def mismatch(own: Mapping[str, Tensor], weights: Mapping[str, Any]) -> str | None:
    """What keeps weights from being loaded into a state, in one line; None if they fit."""
    missing, extra = own.keys() - weights.keys(), weights.keys() - own.keys()
    if missing or extra:
        parts = [
            f"{len(keys)} {word} (first: {sorted(keys)[0]})"
            for keys, word in ((missing, "missing"), (extra, "unexpected"))
            if keys
        ]
        return f"tensors {', '.join(parts)}: weights of another architecture?"
    for key, tensor in own.items():
        if tensor.shape != weights[key].shape:
            return (
                f"{key} has shape {tuple(weights[key].shape)}, "
                f"{tuple(tensor.shape)} is needed: weights of another architecture?"
            )
    return None


class PlainLoading(nn.Module):
    """A module whose `load_state_dict` says in one line what does not fit."""

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """As in torch.

        Raises:
            RuntimeError: torch's own type of error, naming the first tensor that does not fit.
        """
        problem = mismatch(self.state_dict(), state_dict) if strict else None
        if problem is not None:
            raise RuntimeError(f"{type(self).__name__}: {problem}")
        return super().load_state_dict(state_dict, strict=strict, assign=assign)
