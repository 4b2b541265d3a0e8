"""Fitting: from a table to the best density in a given time."""

from impflow_zoo.fitting.columns import Findings, describe
from impflow_zoo.fitting.result import Fit
from impflow_zoo.fitting.run import StoppedFitError, fit

__all__ = ["Findings", "Fit", "StoppedFitError", "describe", "fit"]
