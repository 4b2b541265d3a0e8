"""Implicit and residual normalizing flows: blocks, trained weights, evaluation."""

from impflow_zoo.lipschitz.networks import LipschitzMLP
from impflow_zoo.numerics.logdet import LogDet
from impflow_zoo.numerics.solve import NumericalWarning, Solver, SolverError
from impflow_zoo.transforms.implicit import ImpFlowTransform
from impflow_zoo.transforms.residual import ResFlowTransform

__all__ = [
    "ImpFlowTransform",
    "LipschitzMLP",
    "LogDet",
    "NumericalWarning",
    "ResFlowTransform",
    "Solver",
    "SolverError",
]
