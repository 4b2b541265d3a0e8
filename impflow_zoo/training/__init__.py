"""From a recipe to a trained model; training can be stopped and resumed."""

from impflow_zoo.training.run import train
from impflow_zoo.training.trainer import Trainer

__all__ = ["Trainer", "train"]
