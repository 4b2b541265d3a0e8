"""Scores of models on data sets, with their errors."""

from impflow_zoo.evaluation.result import Result
from impflow_zoo.evaluation.scores import evaluate, shown_rows

__all__ = ["Result", "evaluate", "shown_rows"]
