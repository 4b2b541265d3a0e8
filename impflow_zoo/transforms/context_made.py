"""A masked net whose first output depends on the context, too."""

from __future__ import annotations

from nflows.transforms.made import MADE
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["ContextMADE"]


class ContextMADE(nn.Module):
    """nflows' MADE, in which the outputs of the first column also depend on the context.

    In nflows a unit sees the context only if it sees a column. The outputs of the first column see
    no column, so they are constants. Here a column of zeros stands in front of the others, and its
    outputs are dropped.

    Arguments:
        features: number of columns, `D`.
        hidden_features: width of the net; it is at least `D`, as narrower nets of nflows let no
            output see the last columns.
        context_features: size of a context row, or None.
        outputs: number of outputs of each column.
        dropout: fraction of the hidden units that dropout zeroes in training.

    References:
        MADE: Masked Autoencoder for Distribution Estimation (Germain et al., 2015)
        https://arxiv.org/abs/1502.03509
    """

    def __init__(
        self,
        features: int,
        hidden_features: int,
        context_features: int | None,
        outputs: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.outputs = outputs
        self.made = MADE(
            features + 1,
            max(hidden_features, features),
            context_features,
            output_multiplier=outputs,
            dropout_probability=dropout,
        )

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The outputs of each column given those before it, `[B, D outputs]`, from rows `[B, D]`.

        Raises:
            RuntimeError: for rows of another size or type.
        """
        outputs: Tensor = self.made(functional.pad(x, (1, 0)), context)
        return outputs[:, self.outputs :]
