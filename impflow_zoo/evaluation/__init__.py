"""Scores of models on data sets, with their errors."""

from impflow_zoo.evaluation.result import Result
from impflow_zoo.evaluation.scores import evaluate, shown_rows
from impflow_zoo.evaluation.standard_errors import standard_error

__all__ = ["Result", "evaluate", "shown_rows", "standard_error"]
