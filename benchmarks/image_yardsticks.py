"""What an image model's bits/dim are worth: a Gaussian of patches and a coupling flow beside it.

    python benchmarks/image_yardsticks.py coupling --like hub_configs/impflow-cifar10/recipe.yaml \
        --data FOLDER --minutes 60 --out DIR [--resume]
    python benchmarks/image_yardsticks.py gaussian --like ... --data FOLDER --out DIR

Both have the data, the bits, the dequantisation and the logit of the recipe that they are to be
like, are validated and scored by the same code, and are kept in DIR. `gaussian` is a whitening of
patches of 8x8 pixels and nothing else: a Gaussian with a full covariance, fitted on the first
training images. `coupling` is a flow of normflows' Glow blocks (affine coupling, 1x1 convolution,
ActNorm) after the whitening of each scale, so wide that it has as many parameters as the recipe's
model. The CPU time of a step, measured first on one thread, says how many steps fill the minutes.

References:
    Glow: Generative Flow with Invertible 1x1 Convolutions (Kingma & Dhariwal, 2018)
    https://arxiv.org/abs/1807.03039
"""

from __future__ import annotations

import argparse
import bisect
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
import yaml
from nflows.transforms import CompositeTransform, SqueezeTransform, Transform
from normflows.flows import GlowBlock
from torch import Tensor, nn
from which_flow import step_seconds

from impflow_zoo import evaluate, training
from impflow_zoo.data import DataError
from impflow_zoo.models.build import ImageBuilder
from impflow_zoo.models.classes import model_class, register_model
from impflow_zoo.models.config import Config
from impflow_zoo.models.filenames import CHECKPOINT, RECIPE
from impflow_zoo.models.flow import FlowModel
from impflow_zoo.models.image_config import ImageConfig
from impflow_zoo.models.mistakes import in_one_line
from impflow_zoo.models.mixed import off_meta
from impflow_zoo.training.batches import Batches
from impflow_zoo.training.recipe import Recipe, read_recipe
from impflow_zoo.training.run import open_splits
from impflow_zoo.transforms.images import Flatten, ImageLogit
from impflow_zoo.transforms.whitening import Whitening

PATCH = 3  # halvings of the side of an image: patches of 8x8
WIDEST = 512
FITTED_ON = 4000  # images of a Gaussian: 256,000 patches of 64x64


class Layer(Transform):
    """A flow of normflows as nflows calls it: data -> noise is its inverse."""

    def __init__(self, flow: nn.Module) -> None:
        super().__init__()
        self.flow = flow

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        z, logdet = self.flow.inverse(x)
        return z, logdet

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x, logdet = self.flow.forward(z)
        return x, logdet


@dataclass(frozen=True)
class YardstickConfig(ImageConfig):
    """Settings of an image model whose blocks are none of ours."""

    kind: ClassVar[str] = "image-yardstick"

    @classmethod
    def of(cls, config: Config, **changes: Any) -> Self:
        """The settings of an image model, some of them changed."""
        assert isinstance(config, ImageConfig)
        known = {field.name: getattr(config, field.name) for field in fields(ImageConfig)}
        return cls(**{**known, **changes})


class CouplingBuilder(ImageBuilder):
    """Puts a Glow block where an image model has a block of ours."""

    def block(self, net: Callable[[], nn.Module], kind: Any = None) -> Any:
        self.count += 1
        return Layer(net())

    def net(self, shape: tuple[int, int, int], *, first: bool) -> nn.Module:
        with off_meta():  # normflows looks at values of tensors
            return GlowBlock(shape[0], self.config.width, use_lu=False)


@register_model
class CouplingFlow(FlowModel):
    """A Glow-like flow; of its config it takes sizes, bits, `blocks`, `width`, `whiten`."""

    config_types = (YardstickConfig,)
    config: YardstickConfig

    def build(self) -> Transform:
        return CouplingBuilder(self.config, None).transform()


@register_model
class PatchGaussian(FlowModel):
    """A Gaussian of patches of logits; of its config it takes sizes and bits."""

    config_types = (YardstickConfig,)
    config: YardstickConfig

    def build(self) -> Transform:
        channels, height, width = self.config.shape
        channels, side = channels * 4**PATCH, 2**PATCH
        steps = [
            ImageLogit(self.config.alpha),
            *(SqueezeTransform() for _ in range(PATCH)),
            Whitening(channels),
            Flatten((channels, height // side, width // side)),
        ]
        return CompositeTransform(steps)


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def like(recipe: Recipe, blocks: int) -> YardstickConfig:
    """A config of a coupling flow as large as a recipe's model, with so many blocks a scale.

    Raises:
        DataError: if the first scale has one channel, which a coupling cannot split.
    """
    assert isinstance(recipe.config, ImageConfig)
    if recipe.config.channels == 1 and not recipe.config.squeeze_first:
        raise DataError("a coupling flow splits channels: grey images need `squeeze_first: true`")
    bare = YardstickConfig.of(recipe.config, actnorm=False)
    bare = replace(bare, blocks=(blocks,) * len(bare.blocks))
    size = parameters(model_class(recipe.model)(recipe.config))
    widths = range(1, WIDEST)

    def found(width: int) -> int:
        return parameters(CouplingFlow(replace(bare, width=width)))

    enough = widths[min(bisect.bisect_left(widths, size, key=found), len(widths) - 1)]
    width = min(enough, max(enough - 1, 1), key=lambda w: abs(found(w) - size))
    return replace(bare, width=width)


def first_rows(model: FlowModel, recipe: Recipe, data: str, n: int) -> Tensor:
    """Training images as the model takes them."""
    rows, _ = open_splits(recipe, data)
    batches = Batches(rows, n, flip=recipe.training.flip, seed=recipe.training.seed)
    return model.dequantise(*batches.of(0)).to(next(model.parameters()))


def gaussian(recipe: Recipe, data: str) -> FlowModel:
    """The Gaussian, fitted."""
    model = PatchGaussian(YardstickConfig.of(recipe.config))
    with torch.no_grad():
        model.train().encode(first_rows(model, recipe, data, FITTED_ON))
    return model.eval()


def coupling_recipe(
    recipe: Recipe, data: str, *, minutes: float, blocks: int, rate: float
) -> dict[str, Any]:
    """The recipe of a coupling flow that trains for so many minutes of one thread."""
    model = CouplingFlow(like(recipe, blocks))
    settings = recipe.training
    batch = first_rows(model, recipe, data, settings.batch_size)
    model.train().encode(batch)
    seconds = step_seconds({"": (model, settings)}, 10, batch)[""]
    steps = max(2, round(60 * minutes / seconds))
    print(f"{parameters(model):,} parameters, {seconds:.3f} s a step, {steps:,} steps", flush=True)
    taken = replace(
        settings,
        steps=steps,
        learning_rate=rate,
        final_learning_rate=0.0,
        validate_every=max(1, steps // 10),
    )
    return {
        "model": "CouplingFlow",
        "config": {"kind": YardstickConfig.kind, **asdict(model.config)},
        "data": asdict(recipe.data),
        "training": asdict(taken),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("name", choices=("gaussian", "coupling"))
    parser.add_argument("--like", type=Path, required=True, help="the recipe of an image model")
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=60.0, help="CPU minutes of one thread")
    parser.add_argument("--blocks", type=int, default=6, help="coupling blocks of each scale")
    parser.add_argument("--rate", type=float, default=2e-3, help="learning rate")
    parser.add_argument("--resume", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    recipe = read_recipe(options.like)
    if options.name == "gaussian":
        gaussian(recipe, options.data).save_pretrained(options.out)
    else:
        resume = options.resume and (options.out / CHECKPOINT).exists()
        own = options.out / RECIPE
        if not resume:
            sizes = {name: getattr(options, name) for name in ("minutes", "blocks", "rate")}
            made = coupling_recipe(recipe, options.data, **sizes)
            own.parent.mkdir(parents=True, exist_ok=True)
            own.write_text(yaml.safe_dump(made, sort_keys=False))
        training.train(own, data=options.data, out=options.out, resume=resume)
    result = evaluate(str(options.out), options.data, recipe.data.test, progress=True)
    print(result.report(options.name))


if __name__ == "__main__":
    with in_one_line():
        main()
