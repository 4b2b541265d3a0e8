"""A classifier of small images with blocks of the package as layers.

Its architecture is a narrower version of the classifier in the code of Lu et al. (2021): a stem
convolution, four stages with one block each, 1x1 convolutions between them, pooling and a linear
layer. All three kinds have eight nets of two 3x3 convolutions with a ReLU between them.
"""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from impflow_zoo import ImpFlowTransform, LipschitzConvNet, ResFlowTransform
from impflow_zoo.numerics.report import Report
from impflow_zoo.transforms.base import ResidualBlock

CLASSES = 10
KINDS = ("implicit", "residual", "unconstrained")


class Layer(nn.Module):
    """A block as a layer, without the log-determinant.

    Attributes:
        iterations: evaluations of a net for each root of the last call, mean over the rows.
    """

    def __init__(self, block: ResidualBlock) -> None:
        super().__init__()
        self.block = block
        self.iterations: list[float] = []

    def forward(self, x: Tensor) -> Tensor:
        report = Report()
        z, _ = self.block.run(x, want_logdet=False, report=report)
        self.iterations = [float(root.steps.float().mean()) for root in report.roots]
        return z


class Unconstrained(nn.Module):
    """Two blocks of a ResNet, with batch norm."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.nets = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels, hidden, 3, padding=1, bias=False),
                nn.BatchNorm2d(hidden),
                nn.ReLU(),
                nn.Conv2d(hidden, channels, 3, padding=1, bias=False),
                nn.BatchNorm2d(channels),
            )
            for _ in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.nets
        x = functional.relu(x + first(x))
        return x + second(x)


class Classifier(nn.Module):
    """Scores of ten classes for images in [0, 1].

    Arguments:
        kind: `"implicit"`, one implicit block in each stage; `"residual"`, two residual ones with
            the same nets; or `"unconstrained"`, two blocks of a ResNet.
        bound: Lipschitz constant of every convolution in a block; that of a net is its square.
            `"unconstrained"` does not use it.
        width: channels of the first stage; later ones have up to eight times as many.
        size: height and width of the images.

    Example:
        >>> import torch
        >>> Classifier("implicit", width=2, size=16)(torch.rand(3, 3, 16, 16)).shape
        torch.Size([3, 10])
    """

    def __init__(
        self, kind: str, bound: float | None = 0.9, width: int = 8, size: int = 32
    ) -> None:
        super().__init__()
        self.settings = {"kind": kind, "bound": bound, "width": width, "size": size}
        self.stem = _narrowed(3, width, kernel=3)
        stages, channels = [], width
        for hidden in (width, 2 * width, 4 * width, 8 * width):
            size = -(-size // 2) if hidden != 2 * width else size  # the first stage keeps it
            stages.append(_stage(kind, bound, channels, hidden, size))
            if hidden > width:
                stages.append(_narrowed(channels, hidden, kernel=1))
            channels = hidden
        self.stages = nn.Sequential(*stages)
        self.scores = nn.Linear(channels, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stages(self.stem(2 * x - 1))
        scores: Tensor = self.scores(h.mean((2, 3)))
        return scores

    def iterations(self) -> list[float]:
        """Evaluations of a net for each root of the last call."""
        layers = [m for m in self.modules() if isinstance(m, Layer)]
        return [count for layer in layers for count in layer.iterations]


def _narrowed(channels: int, width: int, kernel: int) -> nn.Module:
    """A convolution that changes the number of channels and halves the size."""
    return nn.Sequential(
        nn.Conv2d(channels, width, kernel, stride=2, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
    )


def _stage(kind: str, bound: float | None, channels: int, hidden: int, size: int) -> nn.Module:
    def net() -> LipschitzConvNet:
        assert bound is not None
        return LipschitzConvNet(channels, (size, size), hidden, (3, 3), "relu", lipschitz=bound**2)

    if kind == "implicit":
        return Layer(ImpFlowTransform(net(), net()))
    if kind == "residual":
        return nn.Sequential(*(Layer(ResFlowTransform(net())) for _ in range(2)))
    return Unconstrained(channels, hidden)


def save(classifier: Classifier, path: Path) -> None:
    """Write weights, and what `load` builds the classifier from, as safetensors."""
    settings = {name: json.dumps(value) for name, value in classifier.settings.items()}
    save_file(classifier.state_dict(), path, metadata=settings)


def load(path: Path) -> Classifier:
    """The classifier in a file, in evaluation mode."""
    with safe_open(path, framework="pt") as file:
        settings = {name: json.loads(value) for name, value in file.metadata().items()}
    classifier = Classifier(**settings)
    classifier.load_state_dict(load_file(path))
    return classifier.eval()
