"""A density in the data's own units: a flow with its preprocessing."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from nflows.distributions import StandardNormal
from nflows.flows import Flow
from nflows.transforms import Transform
from torch import Tensor, nn

from impflow_zoo.data.names import listed
from impflow_zoo.models.budget import Budget
from impflow_zoo.models.build import Noise, described
from impflow_zoo.models.classes import require_config
from impflow_zoo.models.config import Config, parse
from impflow_zoo.models.digits import warn_of_lost_digits
from impflow_zoo.models.fields import ConfigError, ModelError
from impflow_zoo.models.frames import holds, rows_of, sample_frame, weights_of
from impflow_zoo.models.image_config import ImageConfig
from impflow_zoo.models.memory import enough_memory, memory_of
from impflow_zoo.models.mixed import require_transform
from impflow_zoo.models.preprocessing import (
    ImagePreprocessing,
    TablePreprocessing,
    preprocessing_of,
)
from impflow_zoo.models.table_config import TabularConfig
from impflow_zoo.numerics.finite import check_finite
from impflow_zoo.numerics.probes import Probes
from impflow_zoo.numerics.report import Report
from impflow_zoo.numerics.seeds import Use, mix
from impflow_zoo.numerics.settings import is_real, is_whole
from impflow_zoo.transforms.base import ResidualBlock
from impflow_zoo.transforms.whole import walk

if TYPE_CHECKING:
    from normflows import NormalizingFlow

__all__ = ["Density"]

_AT_ONCE = 2**20  # numbers of noise that are decoded together
_DRAWS = 8  # fresh draws behind the standard error where a single one says nothing of it


def _require_rows(x: object, name: str, shape: tuple[int, ...], rows: int | None = None) -> None:
    """Refuse what is no tensor of rows of a shape, and another number of them, if one is given."""
    if not isinstance(x, Tensor):
        raise ModelError(f"{name} of type {type(x).__name__}: a torch tensor is needed")
    if x.shape[1:] != shape or rows not in (None, len(x)):
        asked = "" if rows is None else f"for {rows} rows "
        expected = ", ".join(map(str, ("B" if rows is None else rows, *shape)))
        single = "; give a single row as row[None]" if rows is None and x.shape == shape else ""
        raise ModelError(
            f"{name} of shape {tuple(x.shape)}: {asked}this model takes [{expected}]{single}"
        )


class Density(nn.Module):
    """A flow with exact preprocessing: densities and samples in the data's own units.

    Arguments:
        config: a config dataclass, or its JSON form as a dict.

    Raises:
        ConfigError: if a setting is unknown, missing or out of range, or the nets refuse it.
    """

    config_types: ClassVar[tuple[type[Config], ...]] = (TabularConfig, ImageConfig)
    block_kinds: ClassVar[tuple[str, ...]] = ()  # names of its own blocks; `build` takes the first

    def __init__(self, config: Config | dict[str, Any]) -> None:
        super().__init__()
        self.config = parse(config) if isinstance(config, dict) else config
        require_config(type(self), self.config)
        self.preprocessing = preprocessing_of(self.config)
        try:
            with Budget.of_any():
                transform = require_transform(self.build(), f"{type(self).__name__}.build")
        except ValueError as error:  # a net that cannot be: the nets say why
            raise ConfigError(str(error)) from None
        self.flow = Flow(transform, Noise([math.prod(self.config.shape)]))

    def build(self) -> Transform:
        """The whole map data -> noise that the config describes, made when the model is made.

        For tables it has a `Standardise`, behind `Interval` and `Angles` of such columns, and is a
        `StandardisedContext` if there are contexts: `impflow_zoo.models.table_transform` makes it
        from the steps of standardised rows.
        """
        if not self.block_kinds:
            raise ModelError(
                f"{type(self).__name__} has no method build to make its map, and no block_kinds"
            )
        return described(self.config, self.block_kinds[0])

    @property
    def transform(self) -> Transform:
        """The map data -> noise of the flow, `[B, ...] -> [B, D], [B]`, and back by `inverse`."""
        transform, *_ = self.flow.children()
        assert isinstance(transform, Transform)
        return transform

    @property
    def parts(self) -> list[Density]:
        """The densities that this one is a mixture of, for most models itself alone."""
        return [self]

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns of a table, x0, x1, ... if they have none; empty for images."""
        return self.config.column_names

    def log_prob(self, x: Any, context: Any = None, *, report: Report | None = None) -> Tensor:
        """Log-density of each row, in nats, `[B]`.

        Arguments:
            x: data as the user has it, with shape `[B, ...]`; rows of tables may also be an array,
                or a DataFrame, whose columns are found by name.
            context: one context per row, for conditional models, as a tensor, an array or a
                DataFrame; None takes the context columns of a DataFrame `x`.
            report: receives statistics of the roots and log-determinants.

        Raises:
            ValueError: for input of the wrong type or shape, or with NaN or infinity.
            NotFiniteError: in evaluation, if a weight holds NaN or infinity, or if a row is so far
                from the training data that numbers are too large, naming either.
        """
        value = self._log_prob(*self._checked(x, context), Probes(), report)
        if not self.training:
            why = f"too far from the training data for {value.dtype}"
            check_finite(value.detach(), "log-densities", why)
        return value

    def forward(self, x: Any, context: Any = None) -> Tensor:
        """`log_prob`, for what calls modules: `torch.export`, `torch.func`, summaries.

        Arguments:
            x, context: as in `log_prob`.

        Returns:
            Nats of each row, `[B]`.

        Raises:
            ValueError, NotFiniteError: as `log_prob`.
        """
        return self.log_prob(x, context)

    def log_prob_with_error(
        self,
        x: Any,
        context: Any = None,
        *,
        keys: Iterable[int] | None = None,
        report: Report | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Log-density of each row and the standard error of its estimator, `([B], [B])`.

        The error is that of the estimated log-determinants: zero if they are exact. Rounding is no
        part of it. With `logdet="unbiased"` both come from eight draws. The error is NaN for a
        single seeded probe. The value is `-inf` for rows that `log_prob` refuses as too far from
        the training data.

        Arguments:
            x, context, report: as in `log_prob`.
            keys: one number per row; the probes of a row depend on it and on the seed. With None
                all rows have the same seeded probes.

        Raises:
            ValueError, NotFiniteError: as `log_prob`, but not for rows that are too far from the
                training data.
        """
        x, context = self._checked(x, context)
        own, probes = Report() if report is None else report, Probes(keys)
        before = len(own.logdets)
        value = self._log_prob(x, context, probes, own)
        logdets = own.logdets[before:]
        if any(estimate.mode == "unbiased" for estimate in logdets):
            more = [self._log_prob(x, context, probes, None) for _ in range(_DRAWS - 1)]
            draws = torch.stack([value, *more])
            return draws.mean(dim=0), draws.detach().std(dim=0) / _DRAWS**0.5
        variances = (estimate.variance for estimate in logdets)
        return value, sum(variances, torch.zeros_like(value)).sqrt()

    def _log_prob(
        self, x: Tensor, context: Tensor | None, probes: Probes, report: Report | None
    ) -> Tensor:
        z, logdet = walk(self.transform, x, context, probes=probes, report=report)
        return self._base().log_prob(z) + logdet

    def _base(self) -> StandardNormal:
        """The density of the noise."""
        _, noise, *_ = self.flow.children()  # in the order of nflows' `Flow`
        assert isinstance(noise, StandardNormal)
        return noise

    def bits_per_dim(self, images: Tensor, context: Tensor | None = None) -> Tensor:
        """Bits per dimension of each image, `[B]`, after uniform dequantisation.

        The noise is seeded and the same for every image, so the result depends only on the image
        and the seed. `evaluate` uses different noise for each image.

        Arguments:
            images: uint8 with shape `[B, C, H, W]`.
            context: one context per image, for conditional models.

        Raises:
            ValueError: for a model of tables, and for images of another type or shape.
        """
        if not isinstance(self.preprocessing, ImagePreprocessing):
            raise ValueError("bits_per_dim is for image models: use log_prob")
        _require_rows(images, "images", self.config.shape)
        generator = torch.Generator().manual_seed(mix(self.config.seed, Use.BATCH_NOISE))
        noise = torch.rand(images.shape[1:], generator=generator, dtype=torch.float64)
        x = self.dequantise(images, noise.to(images.device))
        return self.preprocessing.metric(self.log_prob(x, context))

    @torch.no_grad()
    def sample(
        self,
        n: int,
        context: Any = None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
        *,
        rounded: bool = False,
        as_frame: bool = False,
    ) -> Any:
        """Draw from the density.

        Arguments:
            n: number of samples, for each context.
            context: contexts with shape `[C, context_features]`, for conditional models: a tensor,
                an array or a DataFrame.
            temperature: scale of the noise; below 1 samples are more typical.
            generator: torch generator of the noise; None takes the global one.
            rounded: round the columns that are rounded in the data to the grid of their values;
                float64.
            as_frame: return a DataFrame, each sample in a row, with its context behind it. Columns
                that are not rounded have the model's type.

        Returns:
            Samples in data space, `[n, ...]`, or `[C, n, ...]` if there are contexts. Images are
            uint8 in the 8-bit range, whatever the bits of the model. `rsample_and_log_prob` also
            returns log-densities.

        Raises:
            ModelError: for an argument that is of another type or out of its range, and for more
                samples than memory holds.
            NotEnoughMemoryError: if there is less memory than the samples need.
            ValueError: if contexts are missing or of another shape.
            SolverError: if a root is not found.
        """
        if as_frame and not self.columns:
            raise ModelError("as_frame=True is for models of tables: images are no rows")
        context = None if context is None else self.rows_of_context(context)
        x = self._samples(n, context, temperature, generator, rounded=rounded)
        if not as_frame:
            return x
        frame = sample_frame(x, self.columns, context, self.config.context_columns)
        assert isinstance(self.preprocessing, TablePreprocessing), "images have no columns"
        kind = str(next(self.parameters()).dtype).removeprefix("torch.")
        steps = zip(self.columns, self.preprocessing.rounding, strict=False)
        return frame.astype({name: kind for name, step in steps if not step})

    def _samples(
        self,
        n: int,
        context: Any,
        temperature: float,
        generator: torch.Generator | None,
        *,
        rounded: bool,
    ) -> Tensor:
        """Samples in data space, `[n, ...]`, or `[C, n, ...]`."""
        z, rows = self._noise(n, context, temperature, generator)
        parts = range(0, len(z) or 1, max(1, _AT_ONCE // z.shape[1]))
        with enough_memory(f"draw fewer than {len(z):,} samples at a time"):
            x = torch.cat([self._drawn(z, rows, slice(i, i + parts.step)) for i in parts])
            x = self.preprocessing.rounded(x) if rounded else x
        return x if context is None else x.unflatten(0, (len(context), n))

    def _drawn(self, z: Tensor, context: Tensor | None, part: slice) -> Tensor:
        """Some of the samples that noise and contexts are decoded to, as data."""
        return self.to_data(self.decode(z[part], None if context is None else context[part]))

    def rsample(
        self, n: int, context: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw from the density, differentiably: gradients reach parameters and contexts.

        Arguments:
            n, context, generator: as in `sample`.

        Returns:
            Rows as `transform` takes them, `[n, ...]`, or `[C, n, ...]` if there are contexts:
            tables in the data's own units, images as floats. Some pixels lie beyond [0, 1], by
            `alpha / (1 - 2 alpha)` at most, where `log_prob` takes none: clamp them first, or take
            the densities that `rsample_and_log_prob` returns.

        Raises:
            ModelError, ValueError, SolverError: as in `sample`.
        """
        z, rows = self._noise(n, context, 1.0, generator)
        x, _ = walk(self.transform, z, rows, backwards=True, want_logdet=False)
        return x if context is None else x.unflatten(0, (len(context), n))

    def rsample_and_log_prob(
        self, n: int, context: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Draw from the density with the log-density of each sample, in one pass.

        The log-density of `x = T^-1(z)` is `log N(z) - log|det dT^-1/dz|`. Gradients reach
        parameters and contexts, as for the reverse Kullback-Leibler divergence of variational
        inference.

        Arguments:
            n, context, generator: as in `sample`.

        Returns:
            Rows as in `rsample`, and nats, `[n]`, or `[C, n]` if there are contexts.

        Raises:
            ModelError, ValueError, SolverError: as in `sample`.

        Example:
            >>> from impflow_zoo import create_model
            >>> model = create_model("impflow-power-plant")
            >>> x, log_prob = model.rsample_and_log_prob(3)
            >>> x.shape, log_prob.shape
            (torch.Size([3, 5]), torch.Size([3]))
        """
        z, rows = self._noise(n, context, 1.0, generator)
        x, logdet = walk(self.transform, z, rows, backwards=True, probes=Probes())
        value = self._base().log_prob(z) - logdet
        if context is None:
            return x, value
        return x.unflatten(0, (len(context), n)), value.unflatten(0, (len(context), n))

    def _noise(
        self,
        n: int,
        context: Tensor | None,
        temperature: float,
        generator: torch.Generator | None,
    ) -> tuple[Tensor, Tensor | None]:
        """Noise for `n` samples of each context, `[C n, D]`, and the context of each sample."""
        if not (is_whole(n) and n >= 0):
            raise ModelError(f"sample({n!r}): a whole number of at least 0 is needed")
        if not (is_real(temperature) and 0 <= temperature < math.inf):
            raise ModelError(f"temperature={temperature!r}: a finite number, at least 0, is needed")
        if temperature != 1 and self.config.periodic:
            raise ModelError(f"temperature={temperature}: angles have no scale, leave it at 1")
        if not isinstance(generator, torch.Generator | None):
            raise ModelError(
                f"generator={generator!r}: use torch.Generator().manual_seed(0), for example"
            )
        context = self._checked_context(context)
        reference = next(self.parameters())
        groups = 1 if context is None else len(context)
        self._check_memory(groups * n, reference)
        place = reference.device if generator is None else generator.device
        size, dtype = math.prod(self.config.shape), reference.dtype
        noise = torch.randn(groups * n, size, generator=generator, dtype=dtype, device=place)
        noise = noise.to(reference.device)
        rows = None if context is None else context.repeat_interleave(n, dim=0)
        return temperature * noise, rows

    def _check_memory(self, count: int, like: Tensor) -> None:
        """Refuse more samples than fit into memory with their noise, before they take it."""
        needed = 2 * count * math.prod(self.config.shape) * like.element_size()
        if needed > (known := memory_of(like.device)):
            raise ModelError(
                f"{count:,} samples take {needed:,} bytes, there are {known:,}: draw them in parts"
            )

    def encode(self, x: Any, context: Any = None) -> Tensor:
        """`transform` without computing the log-determinant.

        Arguments:
            x: rows as `transform` takes them, `[B, ...]`, or a DataFrame or an array of a table.
            context: one context per row, for conditional models.

        Returns:
            Noise with shape `[B, D]`.

        Raises:
            ValueError: for input of the wrong type or shape, or with NaN or infinity.
            SolverError: if a root is not found.
        """
        x, context = self._checked(x, context)
        return walk(self.transform, x, context, want_logdet=False)[0]

    def decode(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """`transform.inverse` without computing the log-determinant.

        In evaluation mode both emit a `NumericalWarning` for a model of a table where rounding of
        noise far from zero moves a row by more than 0.01 standard deviations of a column. To check
        this, they decode up to 100 rows again. Ordinary noise is never among them.

        Arguments:
            z: noise with shape `[B, D]`.
            context: one context per row, for conditional models.

        Returns:
            Rows as `transform` takes them, `[B, ...]`.

        Raises:
            ValueError: for noise of another shape, or with NaN or infinity.
            SolverError: if a root is not found.
        """
        _require_rows(z, "noise", (math.prod(self.config.shape),))
        z, context = self._converted(z, "noise"), self._checked_context(context, len(z))
        x, _ = walk(self.transform, z, context, backwards=True, want_logdet=False)
        warn_of_lost_digits(self.transform, self.preprocessing, z, context, x)
        return x

    def to_data(self, x: Tensor) -> Tensor:
        """Turn input of `transform` into data. Tables stay as they are, images become uint8.

        Arguments:
            x: rows as `transform` takes them, `[B, ...]`.

        Returns:
            Data of the same shape.
        """
        return self.preprocessing.to_data(x)

    def dequantise(self, raw: Tensor, noise: Tensor) -> Tensor:
        """Undo rounding: raw rows, `[B, ...]`, and uniform noise in [0, 1) become model input.

        Arguments:
            raw: rows as a data set has them.
            noise: one number for each entry of `raw`.
        """
        return self.preprocessing.dequantise(raw, noise)

    @torch.no_grad()
    def fit_preprocessing(self, x: Any, context: Any = None, *, weights: Any = None) -> None:
        """Learn mean and scale of the standardisation from training rows.

        Arguments:
            x: the rows, `[N, D]`.
            context: their contexts; None leaves the standardisation of contexts as it is.
            weights: the weight of each row, at least 0, a tensor or an array with shape `[N]`; None
                counts all alike.

        Raises:
            ModelError: if the model has no standardisation, a column is constant, or weights are
                negative, all zero or not one for each row.
            ValueError: if the rows do not fit the model, or are not finite.
        """
        x = self._from_memory(x, self.config.columns)
        _require_rows(x, "rows", self.config.shape)
        if isinstance(self.preprocessing, ImagePreprocessing):
            raise ModelError("this model's preprocessing is fixed and does not depend on data")
        if context is not None:
            context = self._checked_context(context, len(x))
        check_finite(x, "rows")
        weights = None if weights is None else weights_of(weights, x)
        self.preprocessing.fit(self.transform, x, context, weights)

    def parted(self, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        """Rows of a data set, the context's columns last, as input and contexts.

        Arguments:
            rows: of a table, `[N, D + context_features]`, or images, whose last plane is the label.

        Returns:
            Input, `[N, ...]`, and contexts, `[N, context_features]`; None if the model takes none.
        """
        size = self.config.context_features
        if size is None:
            return rows, None
        if isinstance(self.config, ImageConfig):  # a plane behind the channels is all label
            return rows[:, :-1], rows[:, -1].flatten(1)[:, :1]
        return rows[:, :-size], rows[:, -size:]

    def _checked(self, x: Any, context: Any) -> tuple[Tensor, Tensor | None]:
        """Input and context in the model's type, if they fit the model."""
        given = self.config.context_columns
        if context is None and holds(x, given):
            context = x
        x = self._from_memory(x, self.config.columns)
        _require_rows(x, "inputs", self.config.shape)
        x = self._converted(self.preprocessing.reduced(x), "inputs")  # turns cost digits
        self.preprocessing.check(x)
        return x, self._checked_context(context, len(x))

    def rows_of_context(self, context: Any) -> Any:
        """Contexts as a tensor.

        Arguments:
            context: a DataFrame with the context columns, or an array or tensor of them.

        Returns:
            The contexts, `[C, context_features]`; a tensor stays as it is.

        Raises:
            ModelError: if a column is missing or not numeric.
            DataError: for an array of text, or one of another rank.
        """
        return self._from_memory(context, self.config.context_columns)

    def _from_memory(self, data: Any, names: tuple[str, ...]) -> Any:
        """Rows of a DataFrame or an array as a tensor; those of images are tensors."""
        if len(self.config.shape) != 1:
            return data
        return rows_of(data, names, next(self.parameters()))

    def _checked_context(self, context: Any, rows: int | None = None) -> Tensor | None:
        size = self.config.context_features
        if size is not None and context is not None:
            context = self.rows_of_context(context)
        if size is None and context is not None:
            raise ValueError("a context was given, but this model is unconditional")
        if size is None:
            return None
        if context is None:
            named = listed(self.config.context_columns)
            raise ValueError(
                f"this model needs a context of shape [B, {size}]" + (named and f": {named}")
            )
        _require_rows(context, "context", (size,), rows)
        return self._converted(context, "context")

    def _converted(self, x: Tensor, name: str) -> Tensor:
        reference = next(self.parameters())
        if x.device != reference.device:
            raise ValueError(
                f"{name} is on {x.device}, the model on {reference.device}: "
                "move them to one device with .to(device)"
            )
        if reference.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"parameters of type {reference.dtype}: densities need torch.float32 or "
                "torch.float64, convert the model by .float()"
            )
        if not x.is_floating_point():
            pixels = name == "inputs" and x.dtype == torch.uint8
            remedy = "; for pixels use bits_per_dim, or dequantise them first" if pixels else ""
            raise ValueError(f"{name} of type {x.dtype}: floating point is needed{remedy}")
        check_finite(x, name)
        return x.to(reference.dtype)

    def to_normflows(self) -> NormalizingFlow:
        """The same density as a normflows model, with parameters of its own.

        Returns:
            A `normflows.NormalizingFlow`, or a `ConditionalNormalizingFlow` if the model takes
            contexts. It takes what `transform` takes, preprocessing included.
        """
        from impflow_zoo.normflows import from_transform  # normflows takes a second to import

        with torch.inference_mode(mode=False):  # whose tensors enter no graph
            transform = copy.deepcopy(self.transform)
        conditional = self.config.context_features is not None
        return from_transform(transform, (math.prod(self.config.shape),), conditional=conditional)

    def blocks(self) -> Iterable[ResidualBlock]:
        """The implicit or residual blocks, in order from data to noise."""
        return (m for m in self.modules() if isinstance(m, ResidualBlock))
