"""The end-user models."""

from __future__ import annotations

import copy
import dataclasses
import math
import numbers
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

import torch
from huggingface_hub import PyTorchModelHubMixin
from nflows.distributions import StandardNormal
from nflows.flows import Flow
from nflows.transforms import Transform
from torch import Tensor, nn

from impflow_zoo.models import layout, store
from impflow_zoo.models.build import build_transform, decode, encode
from impflow_zoo.models.config import Config, ModelError, parse
from impflow_zoo.models.device import usable_device
from impflow_zoo.models.golden import verify as verify_golden
from impflow_zoo.models.hub import one_line_errors
from impflow_zoo.models.preprocessing import ImagePreprocessing, preprocessing_of
from impflow_zoo.numerics import monitor
from impflow_zoo.numerics.logdet import LogDet
from impflow_zoo.numerics.probes import mix
from impflow_zoo.numerics.solve import Solver
from impflow_zoo.transforms.base import ResidualBlock, check_finite
from impflow_zoo.transforms.implicit import ImpFlowTransform
from impflow_zoo.transforms.residual import ResFlowTransform
from impflow_zoo.transforms.weights import PlainLoading

if TYPE_CHECKING:
    from normflows import NormalizingFlow

__all__ = ["MODELS", "FlowModel", "ImpFlow", "ResFlow"]

_NOISE = 5  # tells the seed of dequantisation noise from those of probes
_DRAWS = 8  # fresh draws behind the standard error where a single one says nothing of it


def _require_tensor(x: object, name: str) -> None:
    if not isinstance(x, Tensor):
        raise ValueError(f"{name} of type {type(x).__name__}: a torch tensor is needed")


class FlowModel(PlainLoading, PyTorchModelHubMixin):
    """A density with exact preprocessing, in the data's own units.

    `log_prob` takes data as the user has it (tables: in their own units; images: dequantised to
    [0, 1]); `model.flow` is the nflows `Flow`, `model.transform` its transform with the
    preprocessing inside.

    Arguments:
        config: a config dataclass, or its JSON form as a dict.

    Example:
        >>> from impflow_zoo import TabularConfig
        >>> model = ImpFlow(TabularConfig(features=2, blocks=1, hidden_features=(16,))).eval()
        >>> model.log_prob(torch.zeros(3, 2)).shape
        torch.Size([3])
        >>> model.sample(4).shape
        torch.Size([4, 2])
    """

    def __init__(self, config: Config | dict[str, Any]) -> None:
        super().__init__()
        self.config = parse(config) if isinstance(config, dict) else config
        self.preprocessing = preprocessing_of(self.config)
        transform = build_transform(self.config, self._block)
        self.flow = Flow(transform, StandardNormal([math.prod(self.config.shape)]))
        self.files: layout.Files | None = None  # where it was loaded from

    def _block(self, net: Callable[[], nn.Module], logdet: LogDet) -> ResidualBlock:
        raise AssertionError("ImpFlow and ResFlow say what a block is")

    # ------------------------------------------------------------------------------ densities

    @property
    def transform(self) -> Transform:
        """The map data -> noise of the flow."""
        return self.flow._transform

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Log-density of each row, in nats, `[B]`.

        Arguments:
            x: data as the user has it, with shape `[B, ...]`.
            context: one context per row, for conditional models.

        Raises:
            ValueError: for input of the wrong type or shape, or with NaN or infinity.
        """
        x, context = self._checked(x, context)
        return self.flow.log_prob(x, context)

    def log_prob_with_error(
        self, x: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Log-density of each row and the standard error of its estimator, `([B], [B])`.

        The error is that of the log-determinants: zero where they are exact. With
        `logdet="unbiased"` both come from eight draws; it is NaN for a single seeded probe.
        """
        with monitor.record() as events:
            value = self.log_prob(x, context)
        for kind, figures in events:
            monitor.emit(kind, **figures)
        logdets = [figures for kind, figures in events if kind == "logdet"]
        if any(figures["mode"] == "unbiased" for figures in logdets):
            more = [self.log_prob(x, context) for _ in range(_DRAWS - 1)]
            draws = torch.stack([value, *more])
            return draws.mean(dim=0), draws.detach().std(dim=0) / _DRAWS**0.5
        variances = (figures["variance"] for figures in logdets)
        return value, sum(variances, torch.zeros_like(value)).sqrt()

    def bits_per_dim(self, images: Tensor, context: Tensor | None = None) -> Tensor:
        """Bits per dimension of each image, `[B]`, after uniform dequantisation.

        The noise is seeded and the same for every image, so an answer depends on its image and
        the seed alone. `evaluate` draws it for each image anew, for a mean over a data set.

        Arguments:
            images: uint8 with shape `[B, C, H, W]`.
            context: one context per image, for conditional models.

        Raises:
            ValueError: for a model of tables, and for images of another type or shape.
        """
        if not isinstance(self.preprocessing, ImagePreprocessing):
            raise ValueError("bits_per_dim is for image models: use log_prob")
        generator = torch.Generator().manual_seed(mix(self.config.seed, _NOISE))
        noise = torch.rand(images.shape[1:], generator=generator, dtype=torch.float64)
        x = self.dequantise(images, noise.to(images.device))
        return self.preprocessing.metric(self.log_prob(x, context))

    @torch.no_grad()
    def sample(
        self,
        n: int,
        context: Tensor | None = None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw from the density.

        Arguments:
            n: how many, for each context.
            context: contexts with shape `[C, context_features]`, for conditional models.
            temperature: scale of the noise; below 1 samples are more typical.
            generator: torch generator of the noise; None takes the global one.

        Returns:
            Samples in data space, `[n, ...]`, or `[C, n, ...]` if there are contexts. Images are
            uint8 in the 8-bit range, whatever the bits of the model.
        """
        if not isinstance(n, numbers.Integral):
            raise ModelError(f"sample({n!r}): a whole number of samples is needed")
        if n < 0:
            raise ModelError(f"sample({n}): the number of samples is not negative")
        if not 0 <= temperature < math.inf:
            raise ModelError(f"temperature={temperature}: at least 0, finite expected")
        if context is not None:
            _require_tensor(context, "context")
        reference = next(self.parameters())
        groups = 1 if context is None else len(context)
        noise = torch.randn(
            groups * n,
            math.prod(self.config.shape),
            generator=generator,
            dtype=reference.dtype,
            device=reference.device if generator is None else generator.device,
        ).to(reference.device)
        rows = None if context is None else context.repeat_interleave(n, dim=0)
        x = self.to_data(self.decode(temperature * noise, rows))
        return x if context is None else x.unflatten(0, (groups, n))

    def encode(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """`transform` without the log-determinant, which is not computed."""
        return encode(self.transform, *self._checked(x, context))

    def decode(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """`transform.inverse` without the log-determinant, which is not computed."""
        size = math.prod(self.config.shape)
        _require_tensor(z, "noise")
        if z.shape[1:] != (size,):
            raise ValueError(f"noise of shape {tuple(z.shape)}: this model takes [B, {size}]")
        z, context = self._converted(z, "noise"), self._checked_context(context, len(z))
        return decode(self.transform, z, context)

    def to_data(self, x: Tensor) -> Tensor:
        """From what `transform` takes to what users hold: tables as they are, images as uint8."""
        return self.preprocessing.to_data(x)

    @property
    def adds_noise(self) -> bool:
        """Whether `dequantise` uses its noise."""
        return self.preprocessing.adds_noise

    def dequantise(self, raw: Tensor, noise: Tensor) -> Tensor:
        """Undo rounding: raw rows and uniform noise in [0, 1) of their shape -> model input."""
        return self.preprocessing.dequantise(raw, noise)

    @torch.no_grad()
    def fit_preprocessing(self, x: Tensor) -> None:
        """Learn mean and scale of the standardisation from training rows `[N, D]`."""
        self.preprocessing.fit(self.transform, x)

    def _checked(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Input and context in the model's type, after every check a user's mistake deserves."""
        _require_tensor(x, "input")
        if x.shape[1:] != self.config.shape:
            expected = ", ".join(map(str, self.config.shape))
            raise ValueError(f"input of shape {tuple(x.shape)}: this model takes [B, {expected}]")
        x, context = self._converted(x, "input"), self._checked_context(context, len(x))
        self.preprocessing.check(x)
        return x, context

    def _checked_context(self, context: Tensor | None, rows: int) -> Tensor | None:
        size = self.config.context_features
        if size is None and context is not None:
            raise ValueError("a context was given, but this model is unconditional")
        if size is not None:
            if context is None:
                raise ValueError(f"this model needs a context of shape [B, {size}]")
            _require_tensor(context, "context")
            if context.shape != (rows, size):
                raise ValueError(
                    f"context of shape {tuple(context.shape)}: "
                    f"for {rows} rows this model takes [{rows}, {size}]"
                )
        return None if context is None else self._converted(context, "context")

    def _converted(self, x: Tensor, name: str) -> Tensor:
        if not x.is_floating_point():
            raise ValueError(f"{name} of type {x.dtype}: floating point is needed")
        reference = next(self.parameters())
        if x.device != reference.device:
            raise ValueError(
                f"{name} is on {x.device}, the model on {reference.device}: "
                "move them to one device with .to(device)"
            )
        check_finite(x, name)
        return x.to(reference.dtype)

    # --------------------------------------------------------------------------------- blocks

    def to_normflows(self) -> NormalizingFlow:
        """The same density as a normflows model, with parameters of its own.

        Returns:
            A `normflows.NormalizingFlow`, or a `ConditionalNormalizingFlow` if the model takes
            contexts. It takes what `transform` takes, preprocessing included.
        """
        from impflow_zoo.normflows import from_transform  # normflows takes a second to import

        return from_transform(
            copy.deepcopy(self.transform),
            (math.prod(self.config.shape),),
            conditional=self.config.context_features is not None,
        )

    def blocks(self) -> Iterable[ResidualBlock]:
        """The implicit or residual blocks, in order from data to noise."""
        return (m for m in self.modules() if isinstance(m, ResidualBlock))

    # --------------------------------------------------------------------------------- files

    @property
    def origin(self) -> str | None:
        """The folder or Hub id that the model was loaded from."""
        return None if self.files is None else self.files.name

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        revision: str | None = None,
        logdet: str | LogDet | None = None,
        solver: Solver | None = None,
        seed: int | None = None,
        dtype: torch.dtype | None = None,
        device: str | torch.device | None = None,
        verify: bool = False,
        token: str | bool | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
    ) -> Self:
        """Load a model from a local folder or the Hub, in evaluation mode.

        Arguments:
            pretrained_model_name_or_path: a local folder, a Hub id, or `id@revision`.
            revision: branch, tag or commit on the Hub.
            logdet: overrides the stored log-det settings.
            solver: overrides the stored solver.
            seed: overrides the stored seed of probes and noise.
            dtype: type of the parameters; None keeps that of the file.
            device: where to put the model.
            verify: reproduce the golden batch and check the certificate.
            token, cache_dir, local_files_only, force_download: as in `huggingface_hub`.

        Raises:
            ModelError: if config or weights are not what they should be.
            huggingface_hub.errors.HfHubHTTPError, LocalEntryNotFoundError: the Hub's own errors,
                said in one line.
        """
        files = layout.open_files(
            pretrained_model_name_or_path,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            force_download=force_download,
        )
        config_file = store.read_config(files)
        wanted = MODELS[config_file.model]
        if cls is not FlowModel and cls is not wanted:
            raise ModelError(
                f"{files.name} holds an {wanted.__name__}, not an {cls.__name__}: "
                f"use {wanted.__name__}.from_pretrained"
            )
        config = config_file.config
        changes: dict[str, Any] = {}
        if logdet is not None:
            changes["logdet"] = LogDet.of(logdet)
        if solver is not None:
            changes["solver"] = solver
        if seed is not None:
            changes["seed"] = seed
        if dtype not in (None, torch.float32, torch.float64):
            raise ModelError(f"dtype={dtype!r}: torch.float32 or torch.float64 expected")
        config = dataclasses.replace(config, **changes)
        weights = store.read_weights(files, config_file)
        with torch.inference_mode(mode=False):
            model = wanted(config)
            store.load_weights(model, weights, files.name)
            model = model.to(dtype=dtype).eval()
            if device is not None:
                model.to(device=usable_device(device))
        model.files = files
        if verify:
            verify_golden(model, files, config_file.certificate)
        return cast(Self, model)

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        *,
        push_to_hub: bool = False,
        repo_id: str | None = None,
        card: str | None = None,
        config: Any = None,
        model_card_kwargs: dict[str, Any] | None = None,
        **push_to_hub_kwargs: Any,
    ) -> str | None:
        """Write config, weights, golden batch and card; each file appears whole or not at all.

        Power vectors are brought to convergence and the certificate is taken first. A card that
        is there already is kept, unless `card` gives a new one.

        Arguments:
            save_directory: the folder, made if it does not exist.
            push_to_hub: upload the folder afterwards.
            repo_id: where to; the folder's name if None.
            card: text of the README.md.
            config: accepted for `huggingface_hub`, not used.
            model_card_kwargs: `card` and the `repo_id` it is to name, from `push_to_hub`.
            push_to_hub_kwargs: passed to `push_to_hub`.
        """
        words = model_card_kwargs or {}
        card = card or words.get("card")
        folder = Path(save_directory)
        store.save(self, folder, card, name=words.get("repo_id", folder.name))
        if push_to_hub:
            settings = {"model_card_kwargs": {"card": card}, **push_to_hub_kwargs}
            return self.push_to_hub(repo_id or folder.name, **settings)
        return None

    def push_to_hub(
        self, repo_id: str, *, model_card_kwargs: dict[str, Any] | None = None, **options: Any
    ) -> str:
        """Save to the Hub in one commit.

        Arguments:
            repo_id: `owner/name`, made if it does not exist.
            model_card_kwargs: `card`, the text of the README.md.
            options: as in `huggingface_hub.ModelHubMixin.push_to_hub`.

        Returns:
            Address of the commit.

        Raises:
            huggingface_hub.errors.HfHubHTTPError: the Hub's own errors, said in one line.
        """
        words = {"repo_id": repo_id, **(model_card_kwargs or {})}
        with one_line_errors(repo_id):
            return super().push_to_hub(repo_id, model_card_kwargs=words, **options)


class ImpFlow(FlowModel):
    """Implicit normalizing flow: `ImpFlowTransform` blocks.

    References:
        Implicit Normalizing Flows (Lu et al., 2021)
        https://arxiv.org/abs/2103.09527
    """

    def _block(self, net: Callable[[], nn.Module], logdet: LogDet) -> ResidualBlock:
        return ImpFlowTransform(net(), net(), logdet=logdet, solver=self.config.solver)


class ResFlow(FlowModel):
    """Residual flow: `ResFlowTransform` blocks.

    References:
        Residual Flows for Invertible Generative Modeling (Chen et al., 2019)
        https://arxiv.org/abs/1906.02735
    """

    def _block(self, net: Callable[[], nn.Module], logdet: LogDet) -> ResidualBlock:
        return ResFlowTransform(net(), logdet=logdet, solver=self.config.solver)


MODELS: dict[str, type[FlowModel]] = {"ImpFlow": ImpFlow, "ResFlow": ResFlow}
