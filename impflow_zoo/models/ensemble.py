"""Several densities as one: their mixture."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from nflows.transforms import Transform
from torch import Tensor, nn

from impflow_zoo.models.density import Density
from impflow_zoo.models.fields import ModelError
from impflow_zoo.numerics.probes import Probes
from impflow_zoo.numerics.report import Report

__all__ = ["Mixture"]


class Mixture(Density):
    """The mixture of densities with equal weights.

    Its config and preprocessing are those of the first one.

    Arguments:
        models: densities of tables with the same columns and contexts, the same bounds,
            periods and rounding of them, and parameters of one type.

    Raises:
        ModelError: if there is none, one is of images, or they differ in what is named above.
    """

    def __init__(self, models: Iterable[Density]) -> None:
        nn.Module.__init__(self)
        models = list(models)
        if not models:
            raise ModelError("an ensemble of no models: give at least one")
        for model in models:
            if not isinstance(model, Density) or not model.columns:
                raise ModelError(f"an ensemble takes models of tables, not {type(model).__name__}")
            for name, first in _columns(models[0]).items():
                own = _columns(model)[name]
                if own != first:
                    raise ModelError(f"models of other {name}: {own}, the first has {first}")
        self.config, self.preprocessing = models[0].config, models[0].preprocessing
        self.models = nn.ModuleList(models)

    @property
    def parts(self) -> list[Density]:
        """The densities that are mixed."""
        return [model for model in self.models if isinstance(model, Density)]

    @property
    def transform(self) -> Transform:
        """There is none, as each of the models has its own."""
        raise ModelError("an ensemble has no map data -> noise: take that of ensemble.models[0]")

    def _log_prob(
        self, x: Tensor, context: Tensor | None, probes: Probes, report: Report | None
    ) -> Tensor:
        values = [model._log_prob(x, context, probes, report) for model in self.parts]
        return torch.stack(values).logsumexp(dim=0) - math.log(len(values))

    def log_prob_with_error(
        self,
        x: Any,
        context: Any = None,
        *,
        keys: Iterable[int] | None = None,
        report: Report | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Log-density of the mixture and the standard error of its estimator, `([B], [B])`.

        Arguments:
            x, context, keys, report: as for a single density.

        Raises:
            ValueError: as `FlowModel.log_prob_with_error`.
        """
        known = None if keys is None else list(keys)
        found = [
            model.log_prob_with_error(x, context, keys=known, report=report) for model in self.parts
        ]
        values, errors = (torch.stack(part) for part in zip(*found, strict=True))
        shares = values.softmax(dim=0).nan_to_num()
        error = (shares.detach() * errors).square().sum(dim=0).sqrt()
        return values.logsumexp(dim=0) - math.log(len(found)), error

    def _samples(
        self,
        n: int,
        context: Any,
        temperature: float,
        generator: torch.Generator | None,
        *,
        rounded: bool,
    ) -> Tensor:
        """Samples of the mixture: each comes from a model chosen at random."""
        parts = self.parts
        place = next(self.parameters()).device if generator is None else generator.device
        drawn = torch.stack(
            [model._samples(n, context, temperature, generator, rounded=rounded) for model in parts]
        )
        chosen = torch.randint(len(parts), drawn.shape[1:-1], generator=generator, device=place)
        index = chosen.to(drawn.device)[None, ..., None].expand(1, *drawn.shape[1:])
        return drawn.gather(0, index)[0]


def _columns(model: Density) -> dict[str, Any]:
    """What models have to agree on: their columns, and what is done to their values."""
    config: Any = model.config  # of a table
    given = config.context_columns or (config.context_features,)
    steps = config.steps[: len(model.columns)]
    return {
        "columns": model.columns,
        "contexts": given,
        "rounding": steps if any(steps) else (),
        "grids": config.rounding_offset,
        "bounds": config.bounds,
        "periods": config.turns,
        "metric": config.metric,
        "float types": next(model.parameters()).dtype,
    }
