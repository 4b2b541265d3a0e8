"""The published Residual Flow checkpoints: folders that wait for their weights.

Run in a checkout, after a change of what a folder says:
    python -m conversion.published
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from impflow_zoo.models.config import to_json
from impflow_zoo.models.folder import CARD, CONFIG, RECIPE, WEIGHTS, ConfigFile, ModelFolder
from impflow_zoo.published import PublishedImageConfig
from impflow_zoo.publishing.beside import figures
from impflow_zoo.record import parameter_count
from impflow_zoo.registry import zoo_folder

__all__ = ["CHECKPOINTS", "Checkpoint", "files"]

_SOURCE = "https://github.com/rtqichen/residual-flows/releases"
_PAPER = "https://arxiv.org/abs/1906.02735"
_LIPSCHITZ = 0.98**3  # three layers of 0.98 each
_IMAGENET = "Non-commercial research and education, see the terms of image-net.org"


@dataclass(frozen=True)
class Checkpoint:
    """One file of the release.

    Arguments:
        file: its name.
        data: what it was trained on.
        data_url, data_license, dataset_id: of the data.
        changes: of the config that the scripts' defaults give.
    """

    file: str
    data: str
    data_url: str
    data_license: str
    changes: dict[str, Any]
    dataset_id: str | None = None

    @property
    def name(self) -> str:
        """Name of the model and its folder."""
        return f"resflow-{self.file.partition('_')[0]}-published"

    @property
    def bits_per_dim(self) -> str:
        """What the paper reports."""
        known = figures(zoo_folder(), self.data)
        return next(figure.value for figure in known if figure.source == "Chen et al., 2019")

    @property
    def config(self) -> PublishedImageConfig:
        """The config that converting the file gives."""
        defaults: dict[str, Any] = {
            "blocks": (16, 16, 16),
            "width": 512,
            "lipschitz": _LIPSCHITZ,
            "stored_norms": True,
            "centred_actnorm": True,
            "fc_blocks": 4,
            "fc_hidden": (128, 128),
        }
        return PublishedImageConfig(**{**defaults, **self.changes})


_DEEP = {"squeeze_first": True, "factor_out": True}
CHECKPOINTS = (
    Checkpoint(
        "mnist_resflow_16-16-16.pth",
        "MNIST",
        "https://huggingface.co/datasets/ylecun/mnist",
        "none stated by its authors",
        {"channels": 1, "image_size": (28, 28), "alpha": 1e-6},
        "ylecun/mnist",
    ),
    Checkpoint(
        "cifar10_resflow_16-16-16.pth",
        "CIFAR-10",
        "https://huggingface.co/datasets/uoft-cs/cifar10",
        "none stated by its authors",
        {},
        "uoft-cs/cifar10",
    ),
    Checkpoint(
        "imagenet32_resflow_32-32-32.pth",
        "ImageNet, downsampled to 32x32",
        "https://arxiv.org/abs/1601.06759",
        _IMAGENET,
        {"blocks": (32, 32, 32)},
    ),
    Checkpoint(
        "imagenet64_resflow_32-32-32.pth",
        "ImageNet, downsampled to 64x64",
        "https://arxiv.org/abs/1601.06759",
        _IMAGENET,
        {"blocks": (32, 32, 32), "image_size": (64, 64), **_DEEP},
    ),
    Checkpoint(
        "celebahq256_resflow_16-16-16-16-16-16.pth",
        "CelebA-HQ 256x256, 5 bit",
        "https://github.com/tkarras/progressive_growing_of_gans",
        "CC BY-NC 4.0; the photographs belong to their owners",
        {
            **{"blocks": (16,) * 6, "image_size": (256, 256), "bits": 5, "activation": "elu"},
            **{"fc_blocks": 0, **_DEEP},
        },
    ),
)


def files(checkpoint: Checkpoint) -> dict[str, bytes]:
    """Recipe, config and card of a checkpoint's folder."""
    recipe = {
        "model": "ResFlow",
        "config": _plain(to_json(checkpoint.config)),
        "data": {"dataset": checkpoint.dataset_id, "validation": None},
        "training": {
            **{"batch_size": 64, "learning_rate": 1e-3, "final_learning_rate": None},
            **{"warmup_steps": 1000, "flip": "celeba" in checkpoint.file},
        },
        "card": {
            "summary": f"The Residual Flow of {checkpoint.data} that Chen et al. (2019) published.",
            "data_name": checkpoint.data,
            "data_url": checkpoint.data_url,
            "data_license": checkpoint.data_license,
            "dataset_id": checkpoint.dataset_id,
            "limits": ["Samples show textures more than objects."],
        },
    }
    return {
        RECIPE: (
            f"# The weights are those of {checkpoint.file}, see README.md; training settings are "
            "the public script's,\n# whose runs were of a length that is not recorded.\n"
            + yaml.safe_dump(recipe, sort_keys=False, width=100)
        ).encode(),
        CONFIG: ConfigFile("ResFlow", checkpoint.config).text(),
        CARD: _card(checkpoint).encode(),
    }


def _plain(value: Any) -> Any:
    """Lists for tuples, as YAML has no other."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _card(checkpoint: Checkpoint) -> str:
    config_file = ConfigFile("ResFlow", checkpoint.config)
    datasets = f"datasets:\n- {checkpoint.dataset_id}\n" if checkpoint.dataset_id else ""
    return f"""---
{datasets}library_name: impflow_zoo
license: mit
model_name: {checkpoint.name}
tags:
- normalizing-flow
- density-estimation
- resflow
---

# {checkpoint.name}

The Residual Flow of {checkpoint.data} that Chen et al. (2019) published,
{parameter_count(config_file):,} parameters.

**Weights pending.** They are in the release of the public code, which has to be downloaded by hand
({_SOURCE}, file `{checkpoint.file}`, MIT licence), then

```
python -m conversion {checkpoint.file} hub_configs/{checkpoint.name} --verify
```

writes them here. The config is what the published command line describes; conversion replaces it by
what the file says.

## Numbers

| | bits per dimension |
|---|---|
| Chen et al. (2019) ({_PAPER}) | {checkpoint.bits_per_dim} |

This is the paper's number on its test split, not one measured here.

## Limits

- Samples show textures more than objects.
- Likelihood is no test of whether an image is unusual: flows rate images of other kinds highly.
- Research and comparison; no decisions about people.

## Data

{checkpoint.data} ({checkpoint.data_url}). Licence of the data: {checkpoint.data_license}.

## Citation

```bibtex
@inproceedings{{chen2019residual,
  title={{Residual Flows for Invertible Generative Modeling}},
  author={{Chen, Ricky T. Q. and Behrmann, Jens and Duvenaud, David and
          Jacobsen, J{{\\"o}}rn-Henrik}},
  booktitle={{Advances in Neural Information Processing Systems}},
  year={{2019}},
  url={{{_PAPER}}}
}}
```
"""


def main(root: Path | None = None) -> None:
    """Write the folders; those that have weights are left alone."""
    for checkpoint in CHECKPOINTS:
        folder = (root or zoo_folder()) / checkpoint.name
        if (folder / WEIGHTS).is_file():
            continue
        ModelFolder(folder).replace(files(checkpoint))


if __name__ == "__main__":
    main()
