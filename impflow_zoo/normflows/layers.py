"""The same blocks as layers of normflows, whose `forward` is noise -> data."""

from __future__ import annotations

import normflows as nf
import torch
from nflows.transforms import CompositeTransform, Transform
from torch import Tensor, nn

from impflow_zoo.normflows.nets import adopt
from impflow_zoo.numerics.logdet import LogDet
from impflow_zoo.numerics.solver import Solver
from impflow_zoo.transforms.blocks import ImpFlowTransform, ResFlowTransform

__all__ = ["ImpFlowLayer", "ResFlowLayer", "TransformLayer", "from_residual", "from_transform"]


class TransformLayer(nf.flows.Flow):
    """Any nflows transform as a normflows layer.

    The attribute `transform` holds the transform, whose `state_dict` can be used in both libraries.
    `update_lipschitz` is not needed after an optimizer step: the nets keep their Lipschitz bounds
    in their own forward passes.

    Arguments:
        transform: an nflows transform; its data -> noise direction is `inverse` here.
        reverse: False swaps the two directions, as in `normflows.flows.Residual`.
    """

    def __init__(self, transform: Transform, *, reverse: bool = True) -> None:
        super().__init__()
        self.transform = transform
        self.reverse = reverse

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Noise -> data.

        Arguments:
            z: latent rows, with shape `[B, ...]`.
            context: one context per row, or None.

        Returns:
            The data, with shape `[B, ...]`, and `log|det dx/dz|` with shape `[B]`.

        Raises:
            SolverError, NoContractionError, NotFiniteError, ValueError, TypeError: those of the
                transform.
        """
        return self.transform.inverse(z, context) if self.reverse else self.transform(z, context)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Data -> noise.

        Arguments:
            z: rows of data, with shape `[B, ...]`.
            context: one context per row, or None.

        Returns:
            The noise, with shape `[B, ...]`, and `log|det dz/dx|` with shape `[B]`.

        Raises:
            SolverError, NoContractionError, NotFiniteError, ValueError, TypeError: those of the
                transform.
        """
        return self.transform(z, context) if self.reverse else self.transform.inverse(z, context)

    def extra_repr(self) -> str:
        return "" if self.reverse else "reverse=False"


class ImpFlowLayer(TransformLayer):
    """`ImpFlowTransform` as a normflows layer.

    Arguments:
        net_x: `g_x` of `z + g_z(z) = x + g_x(x)`, where `x` is data and `z` is noise.
        net_z: `g_z`.
        logdet: `"auto"`, `"exact"`, `"unbiased"`, `"truncated"`, or a `LogDet`.
        solver: how roots are found; None takes `Solver()`.

    Example:
        >>> import torch
        >>> from impflow_zoo import LipschitzMLP
        >>> flows = [ImpFlowLayer(LipschitzMLP(2), LipschitzMLP(2)) for _ in range(2)]
        >>> model = nf.NormalizingFlow(nf.distributions.DiagGaussian(2), flows)
        >>> model.log_prob(torch.zeros(3, 2)).shape
        torch.Size([3])
    """

    def __init__(
        self,
        net_x: nn.Module,
        net_z: nn.Module,
        logdet: str | LogDet = "auto",
        solver: Solver | None = None,
    ) -> None:
        super().__init__(ImpFlowTransform(net_x, net_z, logdet, solver))


class ResFlowLayer(TransformLayer):
    """`ResFlowTransform` as a normflows layer, replaces `normflows.flows.Residual`.

    Arguments:
        net: `g`, with Lipschitz constant below 1.
        logdet: `"auto"`, `"exact"`, `"unbiased"`, `"truncated"`, or a `LogDet`.
        solver: how roots are found; None takes `Solver()`.
        reverse: whether `x + g(x)` is data -> noise, the direction of densities; False makes it
            noise -> data.
    """

    def __init__(
        self,
        net: nn.Module,
        logdet: str | LogDet = "auto",
        solver: Solver | None = None,
        *,
        reverse: bool = True,
    ) -> None:
        super().__init__(ResFlowTransform(net, logdet, solver), reverse=reverse)


def from_transform(
    transform: Transform, shape: tuple[int, ...], *, conditional: bool = False
) -> nf.NormalizingFlow:
    """A normflows model with a standard normal base from an nflows transform.

    Arguments:
        transform: data -> noise. Each part of a `CompositeTransform` becomes a layer. Composites
            inside it, and sub-classes, stay whole layers: parts see the same contexts, and
            log-determinants are added in the same order.
        shape: shape of a row of noise.
        conditional: make a `ConditionalNormalizingFlow`, which passes contexts to every layer.

    Returns:
        A model that shares its parameters with the transform.
    """
    # A sub-class may change the context of its parts: it stays whole.
    parts = list(transform._transforms) if type(transform) is CompositeTransform else [transform]
    layers = [TransformLayer(part) for part in reversed(parts)]
    base = nf.distributions.DiagGaussian(shape, trainable=False)
    tensors = [*transform.parameters(), *transform.buffers(), torch.empty(0)]
    device = tensors[0].device
    dtype = next(t.dtype for t in tensors if t.is_floating_point())
    model = nf.ConditionalNormalizingFlow if conditional else nf.NormalizingFlow
    return model(base, layers).to(device, dtype).train(transform.training)


def from_residual(
    residual: nf.flows.Residual, logdet: str | LogDet = "auto", solver: Solver | None = None
) -> ResFlowLayer:
    """A `ResFlowLayer` with the function of a trained `normflows.flows.Residual`.

    In evaluation mode its log-probabilities are deterministic, and a root that is not found raises
    an error. A `normflows.nets.LipschitzMLP` or `LipschitzCNN` becomes a net of this package, whose
    bound holds in further training without `update_lipschitz`. Any other net is copied unchanged;
    the user must make sure that its Lipschitz constant is below 1.

    Arguments:
        residual: a layer with either value of `reverse`.
        logdet: how log-determinants are computed.
        solver: how roots are found.

    Returns:
        A layer that shares no parameters with `residual`.

    Raises:
        TypeError: if `residual` is another layer.
        ValueError: if the norms of the net's layers do not make it a contraction, which happens
            after training without `update_lipschitz`.
    """
    if not isinstance(residual, nf.flows.Residual):
        raise TypeError(
            f"a layer of type {type(residual).__name__}: a normflows.flows.Residual is needed"
        )
    net: nn.Module = residual.iresblock.nnet
    layer = ResFlowLayer(adopt(net), logdet, solver, reverse=residual.reverse)
    return layer.train(residual.training)
