"""From a recipe to a trained model, in steps that can be stopped and gone on with."""

from impflow_zoo.training.run import train
from impflow_zoo.training.trainer import Trainer

__all__ = ["Trainer", "train"]
