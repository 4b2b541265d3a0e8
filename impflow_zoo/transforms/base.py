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

from impflow_zoo.lipschitz.norms import SpectralLayer
from impflow_zoo.numerics.compiled import not_compiled
from impflow_zoo.numerics.equation import Equation
from impflow_zoo.numerics.finite import NotFiniteError, blaming_weights, check_finite
from impflow_zoo.numerics.folded import Negated, fold
from impflow_zoo.numerics.logdet import LogDet, NoContractionError
from impflow_zoo.numerics.modes import grad_mode, is_compiling, without_autocast
from impflow_zoo.numerics.probes import Probes
from impflow_zoo.numerics.report import Call, Checks, Report
from impflow_zoo.numerics.residual import ResidualMap
from impflow_zoo.numerics.solver import NumericalWarning, Solver, SolverError
from impflow_zoo.transforms.checks import check_call

__all__ = [
    "NUMERICAL_ERRORS",
    "NotFiniteError",
    "ResidualBlock",
    "Step",
    "all_compile",
    "check_finite",
]

#: Errors of numbers, not mistakes of a user (`NoContractionError`, `NotFiniteError`,
#: `SolverError`). Training skips a step that raises one.
NUMERICAL_ERRORS = (NoContractionError, NotFiniteError, SolverError)


@dataclass(frozen=True)
class Step:
    """One residual map `r(x) = x + sign g(x)` in the direction data -> noise.

    Arguments:
        net: the attribute of the block that holds `g`.
        inverted: take the root of the map instead of its value.
        sign: 1, or -1 for `r(x) = x - g(x)`.

    Raises:
        ValueError: for another sign.
    """

    net: str
    inverted: bool = False
    sign: int = 1

    def __post_init__(self) -> None:
        if self.sign not in (1, -1):
            raise ValueError(f"sign={self.sign}: 1 or -1 is needed")


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

    Raises:
        TypeError: if a sub-class has no `steps`, or others than a tuple of `Step`.
    """

    steps: ClassVar[tuple[Step, ...]] = ()

    def __init__(self, logdet: str | LogDet, solver: Solver | None) -> None:
        steps = self.steps
        if not (steps and isinstance(steps, tuple) and all(isinstance(s, Step) for s in steps)):
            name = type(self).__name__
            raise TypeError(f"{name}.steps: a tuple of Step is needed, such as (Step('net'),)")
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
            NotFiniteError: if inputs hold NaN or infinity. In evaluation also if a result is not
                finite; the message names the weight or the rows.
            ValueError: for inputs that are not floating point, of the wrong shape, or of another
                type or device than the parameters.
            TypeError: if inputs or context are not tensors.
            RuntimeError: within transforms of `torch.func` for random log-determinants, and for
                roots of more than 512 features.
        """
        return self.run(inputs, context)

    def inverse(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Noise -> data.

        Arguments:
            inputs: points `z`, with shape `[B, ...]`.
            context: one context per row, or None.

        Returns:
            `x` with the shape of `z`, and `log|det dx/dz|` with shape `[B]`.

        Raises:
            SolverError, NoContractionError, NotFiniteError, ValueError, TypeError, RuntimeError:
                as `forward`.
        """
        return self.run(inputs, context, backwards=True)

    def encode(self, inputs: Tensor, context: Tensor | None = None) -> Tensor:
        """Data -> noise without the log-determinant, as a layer of another net.

        Arguments:
            inputs: points `x`, with shape `[B, ...]`.
            context: one context per row, or None.

        Returns:
            `z` with the shape of `x`.

        Raises:
            SolverError, NotFiniteError, ValueError, TypeError, RuntimeError: as `forward`.
        """
        return self.run(inputs, context, want_logdet=False)[0]

    def decode(self, inputs: Tensor, context: Tensor | None = None) -> Tensor:
        """Noise -> data without the log-determinant.

        Arguments:
            inputs: points `z`, with shape `[B, ...]`.
            context: one context per row, or None.

        Returns:
            `x` with the shape of `z`.

        Raises:
            SolverError, NotFiniteError, ValueError, TypeError, RuntimeError: as `forward`.
        """
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

        Returns:
            `z`, or `x` backwards, with the shape of `inputs`, and the log-determinants `[B]`.

        Raises:
            SolverError, NoContractionError, NotFiniteError, ValueError, TypeError, RuntimeError:
                as `forward`.
        """
        if is_compiling():
            options: dict[str, Any] = {
                "backwards": backwards,
                "want_logdet": want_logdet,
                "report": report,
            }
            if not self.compiles(inputs.shape[1:].numel(), **options):
                as_written: Any = not_compiled(type(self).run)
                answer: tuple[Tensor, Tensor] = as_written(
                    self, inputs, context, probes=probes, **options
                )
                return answer
        call = Call(self.training, probes or Probes(), report, Checks(postponed=True))
        check_call(self, inputs, context, call.checks)
        if want_logdet and self.training and torch.is_grad_enabled():
            self._warn_of_kinks()
        # Rounded nets move densities by whole nats. A layer without a density may be rounded.
        precise = without_autocast(inputs) if want_logdet else nullcontext()
        with blaming_weights(self), grad_mode(enabled=torch.is_grad_enabled()), precise:
            # A layer before this one answers in bfloat16 under autocast; roots need more than that.
            x = _recordable(inputs.to(torch.promote_types(inputs.dtype, torch.float32)))
            if context is not None:
                context = context.to(x.dtype) if context.is_floating_point() else context
                context = _recordable(context)
            maps = self._maps(x, context, call)
            try:
                z, logdet = _through(maps, x, backwards=backwards, want_logdet=want_logdet)
            except RuntimeError as error:
                if type(error) is RuntimeError:  # of torch, such as of matrices that do not fit
                    given = "" if context is None else f", contexts {tuple(context.shape)}"
                    error.add_note(
                        f"{type(self).__name__} called its nets on rows of shape "
                        f"{tuple(x.shape)}{given}: are they made for these?"
                    )
                raise
            if not self.training:  # training skips a step whose loss is not finite
                why = f"inputs there are too large for {z.dtype}"
                complain = partial(check_finite, z.detach(), "results", why)
                call.checks.add(z.detach().sum(), complain)
            call.checks.run()
        return z, logdet

    def compiles(
        self,
        features: int,
        *,
        backwards: bool = False,
        want_logdet: bool = True,
        report: Report | None = None,
        probes: Probes | None = None,
    ) -> bool:
        """Whether `torch.compile` compiles such a call of `run` for rows of this many features.

        Calls that find roots or sum series are not compiled: their loops depend on values, so that
        `torch.compile` would cut them into pieces, which are slower.

        Arguments:
            features: numbers in a row.
            backwards, want_logdet, report, probes: as in `run`.
        """
        exporting = torch.compiler.is_exporting()  # which leaves nothing as it is written
        mode = self.logdet.resolve(features, training=self.training)
        roots = any(step.inverted != backwards for step in self.steps)
        layers = (m for m in self.modules() if isinstance(m, SpectralLayer))
        if not (self.training or exporting) and any(True for _ in layers):
            return False  # evaluation keeps their norms, compiled code would not
        return report is None and not roots and (mode == "exact" or not want_logdet)

    def _maps(
        self, x: Tensor, context: Tensor | None, call: Call
    ) -> list[tuple[ResidualMap, bool]]:
        """The residual map of each step, for rows of the shape of x, and whether it is inverted.

        Raises:
            ValueError: if a net takes no such rows.
        """
        folded = {name: fold(getattr(self, name), context) for name in self.nets}
        constant, maps = None if context is None else context.detach(), []
        for i, step in enumerate(self.steps):
            module, net = getattr(self, step.net), folded[step.net]
            if net.shape is not None and x.shape[1:] != net.shape:
                expected = ", ".join(map(str, net.shape))
                raise ValueError(f"input of shape {tuple(x.shape)}: this net takes [B, {expected}]")
            kappa = getattr(module, "lipschitz", None)
            residual_map = ResidualMap(
                net if step.sign == 1 else Negated(net),
                solver=self.solver,
                logdet=self.logdet,
                kappa=float(kappa) if isinstance(kappa, (int, float)) else None,
                salt=i,  # maps of one net would err together
                equation=partial(Equation, module, context=constant, sign=step.sign),
                call=call,
            )
            maps.append((residual_map, step.inverted))
        return maps

    def _warn_of_kinks(self) -> None:
        if any(isinstance(module, nn.ReLU) for module in self.modules()):
            message = (
                "gradients of log-determinants are biased with ReLU, whose second derivative "
                "vanishes: train with a smooth activation, such as 'elu' or 'lipswish'"
            )
            warnings.warn(message, NumericalWarning, stacklevel=5)


def all_compile(transform: nn.Module, x: Tensor, **options: Any) -> bool:
    """Whether all blocks of a transform compile: pieces of it between others would gain nothing.

    Arguments:
        transform: the transform.
        x: its input.
        options: as in `ResidualBlock.compiles`.
    """
    size = x.shape[1:].numel()
    blocks = (part for part in transform.modules() if isinstance(part, ResidualBlock))
    return all(block.compiles(size, **options) for block in blocks)


def _recordable(x: Tensor) -> Tensor:
    """A tensor that may enter graphs, which those made in inference mode may not."""
    return x.clone() if not is_compiling() and x.is_inference() else x


def _through(
    maps: list[tuple[ResidualMap, bool]], x: Tensor, *, backwards: bool, want_logdet: bool
) -> tuple[Tensor, Tensor]:
    """Rows taken through maps, or backwards through all of them, and the log-determinant."""
    total = None
    for residual_map, inverted in reversed(maps) if backwards else maps:
        if not want_logdet:
            x = residual_map.inverse(x) if inverted != backwards else residual_map.value(x)
            continue
        if inverted != backwards:
            x, logdet = residual_map.inverse_and_logdet(x)
            logdet = -logdet
        else:
            x, logdet = residual_map.value_and_logdet(x)
        total = logdet if total is None else total + logdet
    return x, x.new_zeros(len(x)) if total is None else total
