"""The base class of all blocks: a walk over residual maps, each evaluated or inverted."""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from nflows.transforms import Transform
from torch import Tensor, nn
from torch.autograd import forward_ad

from impflow_zoo.numerics.equation import Equation
from impflow_zoo.numerics.logdet import LogDet, NoContractionError
from impflow_zoo.numerics.modes import recording, without_autocast
from impflow_zoo.numerics.probes import Probes
from impflow_zoo.numerics.report import Doubts, Report
from impflow_zoo.numerics.residual import ResidualMap
from impflow_zoo.numerics.rows import listed
from impflow_zoo.numerics.solver import NumericalWarning, Solver, SolverError
from impflow_zoo.transforms.binding import bind

__all__ = ["NUMERICAL_ERRORS", "NotFiniteError", "ResidualBlock", "Step", "check_finite"]


@dataclass(frozen=True)
class Step:
    """One residual map `r(x) = x + sign g(x)` in the direction data -> noise.

    Arguments:
        net: the attribute of the block that holds `g`.
        inverted: take the root of the map instead of its value.
        sign: 1, or -1 for `r(x) = x - g(x)`.
    """

    net: str
    inverted: bool = False
    sign: int = 1


class ResidualBlock(Transform):
    """A composition of residual maps and inverses of residual maps.

    Sub-classes list their residual maps in `steps`, in order from data to noise, and assign their
    nets to the attributes that the steps name. The inverse, log-determinants and derivatives
    follow from this list.

    Contract: `forward` is data -> noise, `inverse` noise -> data; both take `[B, ...]` and return
    values of the same shape and log-determinants of shape `[B]`, in at least float32. A context
    has one row per input row. In evaluation mode a root that is not found raises `SolverError`;
    in training mode it warns with `NumericalWarning`, as do log-determinants of nets with ReLU.

    As a layer of another net a block is called by `encode`, which computes no log-determinant.
    Within `torch.autocast` its nets are then evaluated in the narrow type. Log-determinants, and
    the values that come with them, are computed in the type of the parameters.

    Arguments:
        logdet: `"auto"`, `"exact"`, `"unbiased"`, `"truncated"` or a `LogDet`.
        solver: how roots are found; None takes `Solver()`.
    """

    steps: ClassVar[tuple[Step, ...]]

    def __init__(self, logdet: str | LogDet, solver: Solver | None) -> None:
        super().__init__()
        self.logdet = LogDet.of(logdet)
        self.solver = Solver() if solver is None else solver

    def forward(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Data -> noise.

        Arguments:
            inputs: points `x`, with shape `[B, ...]`.
            context: one context per row, or None.

        Returns:
            `z` with the shape of `x`, and `log|det dz/dx|` with shape `[B]`.

        Raises:
            SolverError: if a root is not found (evaluation mode).
            NoContractionError: if `log|det dz/dx|` does not exist: a net is not a contraction.
            ValueError: for inputs that are not floating point, not finite, of the wrong shape, or
                of another type or device than the parameters.
            TypeError: if inputs or context are not tensors.
            RuntimeError: within `torch.func` transforms and forward-mode differentiation.
        """
        return self.run(inputs, context)

    def inverse(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Noise -> data; arguments, results and errors as in `forward`."""
        return self.run(inputs, context, backwards=True)

    def encode(self, inputs: Tensor, context: Tensor | None = None) -> Tensor:
        """`forward` without computing the log-determinant."""
        return self.run(inputs, context, want_logdet=False)[0]

    def decode(self, inputs: Tensor, context: Tensor | None = None) -> Tensor:
        """`inverse` without computing the log-determinant."""
        return self.run(inputs, context, backwards=True, want_logdet=False)[0]

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "logdet":
            value = LogDet.of(value)
        if name == "solver" and not isinstance(value, Solver):
            raise TypeError(
                f"solver={value!r}: a Solver is needed, such as Solver(method='newton')"
            )
        if name in self.nets and not isinstance(value, nn.Module):
            raise TypeError(f"{name}={value!r}: a torch module is needed, such as LipschitzMLP(2)")
        if name in self.nets and (getattr(value, "lipschitz", None) or 0.0) >= 1:
            raise ValueError(f"{name} has lipschitz={value.lipschitz}: a bound below 1 is needed")
        super().__setattr__(name, value)

    @property
    def nets(self) -> tuple[str, ...]:
        """Names of the nets, each once, in the order of the steps."""
        return tuple(dict.fromkeys(step.net for step in self.steps))

    def run(
        self,
        inputs: Tensor,
        context: Tensor | None = None,
        *,
        backwards: bool = False,
        want_logdet: bool = True,
        probes: Probes | None = None,
        report: Report | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The general form of the other methods.

        Arguments:
            inputs, context: as in `forward`.
            backwards: noise -> data.
            want_logdet: False computes no log-determinant and returns zeros for it.
            probes: the source of the probes of log-determinants.
            report: receives statistics of roots and log-determinants.
        """
        doubts, probes = Doubts(), probes or Probes()
        self._check(inputs, context, doubts)
        # A layer before this one answers in bfloat16 under autocast; roots need more than that.
        value = inputs.to(torch.promote_types(inputs.dtype, torch.float32))
        if want_logdet and self.training and torch.is_grad_enabled():
            self._warn_of_kinks()
        # Rounded nets move densities by whole nats. A layer without a density may be rounded.
        precise = without_autocast(inputs) if want_logdet else nullcontext()
        with recording(mode=torch.is_grad_enabled()), precise:
            # Graphs could not keep what was made in inference mode.
            value = value.clone() if value.is_inference() else value
            if context is not None:
                context = context.to(value.dtype) if context.is_floating_point() else context
                context = context.clone() if context.is_inference() else context
            detached = None if context is None else context.detach()
            nets = {name: getattr(self, name) for name in self.nets}
            bound = {name: bind(net, context) for name, net in nets.items()}
            total = None
            for step in reversed(self.steps) if backwards else self.steps:
                net = bound[step.net]
                if net.shape is not None and value.shape[1:] != net.shape:
                    expected = ", ".join(map(str, net.shape))
                    raise ValueError(
                        f"input of shape {tuple(value.shape)}: this net takes [B, {expected}]"
                    )
                kappa = getattr(nets[step.net], "lipschitz", None)
                residual_map = ResidualMap(
                    net if step.sign == 1 else net.negated(),
                    solver=self.solver,
                    logdet=self.logdet,
                    training=self.training,
                    kappa=float(kappa) if isinstance(kappa, (int, float)) else None,
                    salt=self.nets.index(step.net),
                    equation=partial(Equation, nets[step.net], context=detached, sign=step.sign),
                    probes=probes,
                    report=report,
                    doubts=doubts,
                )
                inverted = step.inverted != backwards
                if not want_logdet:
                    value = residual_map.inverse(value) if inverted else residual_map.value(value)
                    continue
                if inverted:
                    value, logdet = residual_map.inverse_and_logdet(value)
                    logdet = -logdet
                else:
                    value, logdet = residual_map.value_and_logdet(value)
                total = logdet if total is None else total + logdet
            doubts.settle()
        return value, value.new_zeros(len(value)) if total is None else total

    def _warn_of_kinks(self) -> None:
        if any(isinstance(module, nn.ReLU) for module in self.modules()):
            message = (
                "gradients of log-determinants are biased with ReLU, whose second derivative "
                "vanishes: train with a smooth activation, such as 'elu' or 'lipswish'"
            )
            warnings.warn(message, NumericalWarning, stacklevel=4)

    def _check(self, inputs: Tensor, context: Tensor | None, doubts: Doubts) -> None:
        """Refuse inputs and contexts as `forward` says, now or at the end of the call."""
        for name, x, kind in (("inputs", inputs, Tensor), ("context", context, Tensor | None)):
            if not isinstance(x, kind):
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
        # By a private name: torch has no other way to ask whether it is transforming a function.
        if torch._C._functorch.peek_interpreter_stack() is not None:
            raise RuntimeError(
                "transforms of torch.func over a block are not supported: use torch.autograd.grad, "
                "or the rows of one batch (torch.func.functional_call of a block works)"
            )
        parameters = list(self.parameters())
        tensors = [t for t in (inputs, context, *parameters) if t is not None]
        if any(forward_ad.unpack_dual(t).tangent is not None for t in tensors):  # would be lost
            raise RuntimeError("forward-mode derivatives are not supported: use reverse mode")
        _check_place(inputs, context, [p for p in parameters if p.is_floating_point()])
        for name, x in (("inputs", inputs), ("context", context)):
            if x is not None and x.is_floating_point():
                # Their sum is not finite if an entry is not.
                doubts.add(x.detach().sum(), partial(check_finite, x, name))


class NotFiniteError(ValueError):
    """A tensor holds NaN or infinity."""


# Numerical failures, not mistakes of a user: training skips them and goes on.
NUMERICAL_ERRORS = (NoContractionError, NotFiniteError, SolverError)


def check_finite(x: Tensor, name: str) -> None:
    """Refuse NaN and infinity, naming the rows.

    Raises:
        NotFiniteError: if there are any.
    """
    rows = (~torch.isfinite(x[:, None].flatten(1)).all(dim=1)).nonzero()[:, 0].tolist()
    if rows:
        where = f"{len(rows)} of {len(x)} rows: {listed(rows)}"
        raise NotFiniteError(f"{name} with NaN or infinity in {where}")


def _check_place(inputs: Tensor, context: Tensor | None, parameters: list[nn.Parameter]) -> None:
    """A `ValueError` where inputs, context and parameters do not go together."""
    others = [*parameters] if context is None else [context, *parameters]
    devices = {t.device for t in others} - {inputs.device}
    if devices:
        raise ValueError(
            f"inputs are on {inputs.device}, context or parameters on "
            f"{', '.join(sorted(map(str, devices)))}: move them to one device with .to(device)"
        )
    if any(p.is_inference() for p in parameters):
        raise ValueError(
            "parameters were made within torch.inference_mode: copy them outside of it"
        )
    for narrow in {p.dtype for p in parameters} - {torch.float32, torch.float64}:
        raise ValueError(
            f"parameters of type {narrow}: torch.float32 or torch.float64 is needed, convert them "
            "by .float()"
        )
    dtype = torch.promote_types(inputs.dtype, torch.float32)
    found = {"parameters": {p.dtype for p in parameters}}
    if context is not None and context.is_floating_point():
        found["context"] = {context.dtype}
    # Types of 32 bits and less go together under autocast.
    if torch.is_autocast_enabled(inputs.device.type) and torch.float64 not in {dtype}.union(
        *found.values()
    ):
        return
    for name, types in found.items():
        if types and dtype not in types:
            names = ", ".join(sorted(map(str, types)))
            raise ValueError(
                f"inputs of type {dtype}, {name} of type {names}: convert either, by .to({names}) "
                f"or .to({dtype})"
            )
