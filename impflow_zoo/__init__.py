"""Implicit and residual normalizing flows: blocks, trained weights, evaluation."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from impflow_zoo.evaluation import evaluate
from impflow_zoo.lipschitz.image_networks import LipschitzConvNet, LipschitzDenseNet
from impflow_zoo.lipschitz.perceptron import LipschitzMLP
from impflow_zoo.lipschitz.sandwich import SandwichMLP
from impflow_zoo.models.classes import register_model
from impflow_zoo.models.fields import ConfigError, ModelError
from impflow_zoo.models.flow import Ensemble, ImpFlow, MonotoneFlow, ResFlow
from impflow_zoo.models.folder import WeightsError
from impflow_zoo.models.image_config import ImageConfig
from impflow_zoo.models.memory import NotEnoughMemoryError
from impflow_zoo.models.mixed import register_block
from impflow_zoo.models.registry import create_model, list_models
from impflow_zoo.models.spline import SplineFlow
from impflow_zoo.models.spline_config import SplineConfig
from impflow_zoo.models.table_config import TabularConfig
from impflow_zoo.models.yardsticks import (
    LinearGaussian,
    LinearGaussianConfig,
    MixtureConfig,
    MixtureDensityNetwork,
)
from impflow_zoo.numerics.logdet import LogDet, NoContractionError
from impflow_zoo.numerics.solver import NumericalWarning, Solution, Solver, SolverError
from impflow_zoo.transforms.base import ResidualBlock, Step
from impflow_zoo.transforms.blocks import ImpFlowTransform, MonotoneTransform, ResFlowTransform
from impflow_zoo.transforms.dequantisation import VariationalDequantisation
from impflow_zoo.transforms.radial import RadialTransform

if TYPE_CHECKING:
    from impflow_zoo.fitting import Fit, fit
    from impflow_zoo.training import train

__all__ = [
    "ConfigError",
    "Ensemble",
    "Fit",
    "ImageConfig",
    "ImpFlow",
    "ImpFlowTransform",
    "LinearGaussian",
    "LinearGaussianConfig",
    "LipschitzConvNet",
    "LipschitzDenseNet",
    "LipschitzMLP",
    "LogDet",
    "MixtureConfig",
    "MixtureDensityNetwork",
    "ModelError",
    "MonotoneFlow",
    "MonotoneTransform",
    "NoContractionError",
    "NotEnoughMemoryError",
    "NumericalWarning",
    "RadialTransform",
    "ResFlow",
    "ResFlowTransform",
    "ResidualBlock",
    "SandwichMLP",
    "Solution",
    "Solver",
    "SolverError",
    "SplineConfig",
    "SplineFlow",
    "Step",
    "TabularConfig",
    "VariationalDequantisation",
    "WeightsError",
    "create_model",
    "evaluate",
    "fit",
    "list_models",
    "register_block",
    "register_model",
    "train",
]

_LATER = {"Fit": "fitting", "fit": "fitting", "train": "training"}  # imported when they are used


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LATER[name]}"), name)


def __dir__() -> list[str]:
    return __all__
