"""From a recipe to a trained model, in steps that can be stopped and gone on with."""

from impflow_zoo.training.trainer import Trainer, train

__all__ = ["Trainer", "train"]
