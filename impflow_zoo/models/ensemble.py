"""Several models as one density: their mixture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from impflow_zoo.models.fields import ModelError
from impflow_zoo.models.flow import FlowModel
from impflow_zoo.models.frames import sample_frame

__all__ = ["Ensemble"]


class Ensemble(nn.Module):
    """The mixture of densities with equal weights, such as of one recipe with several seeds.

    Its log-density is at least the mean of those of its models, by Jensen's inequality.

    Arguments:
        models: models of tables with the same columns and contexts.

    Raises:
        ModelError: if there is none, one is of images, or their columns differ.

    Example:
        >>> from impflow_zoo import create_model
        >>> names = ("impflow-power-plant", "resflow-power-plant")
        >>> ensemble = Ensemble([create_model(name) for name in names])
        >>> ensemble.log_prob(ensemble.sample(4)).shape
        torch.Size([4])
    """

    def __init__(self, models: Sequence[FlowModel]) -> None:
        super().__init__()
        if not models:
            raise ModelError("an ensemble of no models: give at least one")
        for model in models:
            if not isinstance(model, FlowModel) or not model.columns:
                raise ModelError(f"an ensemble takes models of tables, not {type(model).__name__}")
            for name in ("columns", "given"):
                first, own = (_names(one, name) for one in (models[0], model))
                if own != first:
                    raise ModelError(f"models of other columns: {own}, the first has {first}")
        self.models = nn.ModuleList(models)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns, see `FlowModel.columns`."""
        return self._parts[0].columns

    @property
    def _parts(self) -> list[FlowModel]:
        return [model for model in self.models if isinstance(model, FlowModel)]

    def log_prob(self, x: Any, context: Any = None) -> Tensor:
        """Log-density of each row of the mixture, in nats, `[B]`.

        Arguments:
            x, context: as for `FlowModel.log_prob`.

        Raises:
            ValueError, NotFiniteError: as `FlowModel.log_prob`.
        """
        parts = torch.stack([model.log_prob(x, context) for model in self._parts])
        return parts.logsumexp(dim=0) - math.log(len(parts))

    @torch.no_grad()
    def sample(
        self,
        n: int,
        context: Any = None,
        *,
        generator: torch.Generator | None = None,
        rounded: bool = False,
        as_frame: bool = False,
    ) -> Any:
        """Draw from the mixture; each sample comes from a model chosen at random.

        Arguments:
            n, context, generator, rounded, as_frame: as for `FlowModel.sample`.

        Returns:
            `[n, D]`, or `[C, n, D]` for `C` contexts; a DataFrame if `as_frame`.

        Raises:
            ModelError, ValueError, SolverError: as `FlowModel.sample`.
        """
        parts = self._parts
        place = next(self.parameters()).device if generator is None else generator.device
        drawn = torch.stack(
            [model.sample(n, context, generator=generator, rounded=rounded) for model in parts]
        )
        chosen = torch.randint(len(parts), drawn.shape[1:-1], generator=generator, device=place)
        index = chosen.to(drawn.device)[None, ..., None].expand(1, *drawn.shape[1:])
        samples = drawn.gather(0, index)[0]
        if not as_frame:
            return samples
        given = tuple(getattr(parts[0].config, "context_columns", ()))
        rows = None if context is None else parts[0].rows_of_context(context)
        return sample_frame(samples, self.columns, rows, given)


def _names(model: FlowModel, which: str) -> tuple[Any, ...]:
    if which == "columns":
        return model.columns
    named = tuple(getattr(model.config, "context_columns", ()))
    return named or (model.config.context_features,)
