"""The end-user models: densities that are loaded, saved and shared."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import torch
from huggingface_hub import HfApi, PyTorchModelHubMixin

from impflow_zoo.models import store
from impflow_zoo.models.classes import model_class, register_model
from impflow_zoo.models.config import Config
from impflow_zoo.models.density import Density
from impflow_zoo.models.ensemble import Mixture
from impflow_zoo.models.fields import ModelError, did_you_mean, usable_device
from impflow_zoo.models.filenames import CARD
from impflow_zoo.models.folder import DamagedError, ModelFolder
from impflow_zoo.models.hub import one_line_errors
from impflow_zoo.numerics.logdet import LogDet
from impflow_zoo.numerics.solver import Solver

__all__ = ["Ensemble", "FlowModel", "ImpFlow", "MonotoneFlow", "ResFlow"]


class FlowModel(Density, PyTorchModelHubMixin):
    """A density with exact preprocessing, in the data's own units.

    `log_prob` takes data as the user has it (tables: in their own units; images: dequantised to
    [0, 1]); `model.flow` is the nflows `Flow`, `model.transform` its transform with the
    preprocessing inside.

    Arguments:
        config: a `TabularConfig` or another that the class takes, or its JSON form as a dict.

    Example:
        >>> from impflow_zoo import TabularConfig
        >>> model = ImpFlow(TabularConfig(features=2, blocks=1, hidden_features=(16,))).eval()
        >>> model.log_prob(model.sample(4)).shape
        torch.Size([4])
    """

    citation: ClassVar[str] = ""  # what cards ask users to cite, in BibTeX

    def __init__(self, config: Config | dict[str, Any]) -> None:
        super().__init__(config)
        self.folder: ModelFolder | None = None  # where it was loaded from

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
            dtype: type of the parameters; None keeps the type of the file.
            device: device of the model.
            verify: reproduce the golden batch and check the certificate.
            token, cache_dir, local_files_only, force_download: as in `huggingface_hub`.

        Raises:
            ModelError: if config or weights are damaged or do not fit together.
            huggingface_hub.errors.HfHubHTTPError, LocalEntryNotFoundError: the Hub's own errors,
                said in one line.
        """
        opened = partial(
            ModelFolder.open,
            pretrained_model_name_or_path,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
        )
        folder = opened(force_download=force_download)
        try:
            stated, weights = folder.config_and_weights()
        except DamagedError:  # in the cache, perhaps
            with suppress(OSError):
                folder = opened(force_download=not local_files_only)
            stated, weights = folder.config_and_weights()
        wanted: type[FlowModel] = Ensemble if stated.members else model_class(stated.model)
        if not (issubclass(cls, wanted) or issubclass(wanted, cls)):
            raise ModelError(
                f"{folder.name} holds a model of type {wanted.__name__}, not {cls.__name__}: "
                f"use {wanted.__name__}.from_pretrained"
            )
        config: Any = stated.config
        given = {"logdet": logdet and LogDet.of(logdet), "solver": solver, "seed": seed}
        changes: dict[str, Any] = {k: value for k, value in given.items() if value is not None}
        for name in changes:
            if name not in {field.name for field in dataclasses.fields(config)}:
                raise ModelError(f"a {wanted.__name__} has no setting {name}: leave it out")
        if dtype not in (None, torch.float32, torch.float64):
            raise ModelError(f"dtype={dtype!r}: torch.float32 or torch.float64 expected")
        config = dataclasses.replace(config, **changes)
        kind: Callable[[Any], FlowModel] = cls if issubclass(cls, wanted) else wanted
        if stated.members:
            kind = partial(_several, model_class(stated.model), stated.members)
        blank = store.blank_state(kind, config, weights, folder.name)
        store.check_fit(weights, blank, folder.name)
        # Weights that are overwritten at once take no random numbers from the caller.
        with torch.inference_mode(mode=False), torch.random.fork_rng(devices=[]):
            model = kind(config)
            store.load_weights(model, weights)
            model = model.to(dtype=dtype).eval()
            if device is not None:
                model.to(device=usable_device(device))
        model.folder = folder
        if verify:
            store.verify(model, folder, stated)
        return cast(Self, model)

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        *,
        push_to_hub: bool = False,
        repo_id: str | None = None,
        card: str | None = None,
        model_card_kwargs: dict[str, Any] | None = None,
        **push_to_hub_kwargs: Any,
    ) -> str | None:
        """Write config, weights, golden batch and card, all of them or none.

        Power iteration is run to convergence and the certificate is computed first. An existing
        card is kept, unless `card` gives a new one.

        Arguments:
            save_directory: the folder, made if it does not exist.
            push_to_hub: also save the model to the Hub, with the same card.
            repo_id: repository on the Hub; None takes the folder's name.
            card: text of the README.md.
            model_card_kwargs: `card` and the `repo_id` it is to name, from `push_to_hub`.
            push_to_hub_kwargs: passed to `push_to_hub`.

        Raises:
            ModelError: if the folder has no name, or the model cannot be saved.
            TypeError: for an option that `push_to_hub` does not have; nothing is written.
        """
        _refuse_unknown(push_to_hub_kwargs)
        if not os.fspath(save_directory):
            raise ModelError("the name of the folder is empty: use '.' for the working directory")
        folder, words = Path(save_directory), model_card_kwargs or {}
        own, known = repo_id or folder.resolve().name, card or (folder / CARD).exists()
        store.save(self, folder, card or words.get("card"), words.get("repo_id", own))
        if not push_to_hub:
            return None
        words = {"card": (folder / CARD).read_text(encoding="utf-8")} if known else {}
        return self.push_to_hub(own, **{"model_card_kwargs": words, **push_to_hub_kwargs})

    def push_to_hub(
        self, repo_id: str, *, model_card_kwargs: dict[str, Any] | None = None, **options: Any
    ) -> str:
        """Save to the Hub in one commit, and return its address.

        Arguments:
            repo_id: `owner/name`, or the name of your own; made if it does not exist.
            model_card_kwargs: `card`, the text of the README.md.
            options: as in `huggingface_hub.ModelHubMixin.push_to_hub`.

        Raises:
            huggingface_hub.errors.HfHubHTTPError: the Hub's own errors, said in one line.
            TypeError: for an option of another name; nothing is sent.
        """
        _refuse_unknown(options)
        with one_line_errors(repo_id, saves=True):
            if "/" not in repo_id:  # the Hub knows the owner, whom the card is to name
                known = {key: options.get(key) for key in ("token", "private")}
                repo_id = HfApi().create_repo(repo_id, exist_ok=True, **known).repo_id
            words = {"repo_id": repo_id, **(model_card_kwargs or {})}
            return super().push_to_hub(repo_id, model_card_kwargs=words, **options)


def _refuse_unknown(options: dict[str, Any]) -> None:
    known = signature(PyTorchModelHubMixin.push_to_hub).parameters
    for name in options:
        if name not in known:
            hint = did_you_mean(name, [*known, "card", "push_to_hub"])
            raise TypeError(f"unknown option {name!r}{hint}")


class Ensemble(Mixture, FlowModel):
    """The mixture of densities with equal weights, such as of one recipe with several seeds.

    Its log-density is at least the mean of those of its models, by Jensen's inequality. It is
    saved, loaded and evaluated as its models are; models of one config alone are saved together.

    Arguments:
        models: models of tables with the same columns and contexts, and the same bounds, periods
            and rounding of them.

    Raises:
        ModelError: if there is none, one is of images, or their columns differ.

    Example:
        >>> from impflow_zoo import create_model
        >>> names = ("impflow-power-plant", "resflow-power-plant")
        >>> ensemble = Ensemble([create_model(name) for name in names])
        >>> ensemble.log_prob(ensemble.sample(4)).shape
        torch.Size([4])
    """

    def __init__(self, models: Iterable[FlowModel]) -> None:
        Mixture.__init__(self, models)
        self.folder = None


def _several(kind: type[FlowModel], members: int, config: Config) -> Ensemble:
    """An ensemble of untrained models."""
    return Ensemble([kind(config) for _ in range(members)])


@register_model
class ImpFlow(FlowModel):
    """Implicit normalizing flow: a chain of `ImpFlowTransform` blocks.

    Arguments:
        config: a `TabularConfig` or an `ImageConfig`, or its JSON form as a dict.

    Raises:
        ConfigError: if a setting is unknown, missing or out of range, or the nets refuse it.

    Example:
        >>> from impflow_zoo import TabularConfig
        >>> model = ImpFlow(TabularConfig(features=2, blocks=1, hidden_features=(16,))).eval()
        >>> model.log_prob(model.sample(4)).shape
        torch.Size([4])
    """

    block_kinds = ("implicit",)
    citation: ClassVar[str] = """@inproceedings{lu2021implicit,
  title={Implicit Normalizing Flows},
  author={Lu, Cheng and Chen, Jianfei and Li, Chongxuan and Wang, Qiuhao and Zhu, Jun},
  booktitle={International Conference on Learning Representations},
  year={2021},
  url={https://arxiv.org/abs/2103.09527}
}"""


@register_model
class ResFlow(FlowModel):
    """Residual flow: a chain of `ResFlowTransform` blocks.

    Arguments:
        config: a `TabularConfig` or an `ImageConfig`, or its JSON form as a dict.

    Raises:
        ConfigError: if a setting is unknown, missing or out of range, or the nets refuse it.

    Example:
        >>> from impflow_zoo import TabularConfig
        >>> model = ResFlow(TabularConfig(features=2, blocks=1, hidden_features=(16,))).eval()
        >>> model.log_prob(model.sample(4)).shape
        torch.Size([4])
    """

    block_kinds = ("residual",)
    citation: ClassVar[str] = """@inproceedings{chen2019residual,
  title={Residual Flows for Invertible Generative Modeling},
  author={Chen, Ricky T. Q. and Behrmann, Jens and Duvenaud, David and Jacobsen, J{\\"o}rn-Henrik},
  booktitle={Advances in Neural Information Processing Systems},
  year={2019},
  url={https://arxiv.org/abs/1906.02735}
}"""


@register_model
class MonotoneFlow(FlowModel):
    """Monotone flow: a chain of `MonotoneTransform` blocks.

    Arguments:
        config: a `TabularConfig` or an `ImageConfig`, or its JSON form as a dict.

    Raises:
        ConfigError: if a setting is unknown, missing or out of range, or the nets refuse it.

    Example:
        >>> from impflow_zoo import TabularConfig
        >>> model = MonotoneFlow(TabularConfig(features=2, blocks=1, hidden_features=(16,))).eval()
        >>> model.log_prob(model.sample(4)).shape
        torch.Size([4])
    """

    block_kinds = ("monotone",)
    citation: ClassVar[str] = """@inproceedings{ahn2022invertible,
  title={Invertible Monotone Operators for Normalizing Flows},
  author={Ahn, Byeongkeun and Kim, Chiyoon and Hong, Youngjoon and Kim, Hyunwoo J.},
  booktitle={Advances in Neural Information Processing Systems},
  year={2022},
  url={https://arxiv.org/abs/2210.08176}
}"""
