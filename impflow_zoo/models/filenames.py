"""What the files of a model's folder are called. The names stand here and nowhere else."""

from __future__ import annotations

__all__ = [
    "CARD",
    "CHECKPOINT",
    "CONFIG",
    "CURVE",
    "DATA",
    "FILES",
    "FITTED",
    "GOLDEN",
    "LOCK",
    "LOG",
    "PICTURE",
    "PUBLISHED",
    "RECIPE",
    "RESULTS",
    "SCORES",
    "TEST_ROWS",
    "TRAINING",
    "WEIGHTS",
]

CONFIG, WEIGHTS, GOLDEN = "config.json", "model.safetensors", "golden.safetensors"
RECIPE, TRAINING, RESULTS = "recipe.yaml", "training.json", "results.json"
CARD, PICTURE, CURVE = "README.md", "density.png", "curve.png"
TEST_ROWS = "test.parquet"  # the split that the card speaks of
SCORES = "scores.safetensors"  # of these rows, one by one; in checkouts alone
LOG, CHECKPOINT = "log.jsonl", "checkpoint.safetensors"  # of a training run
FITTED = "data"  # folder of a fit: a parquet file of each split
LOCK = ".lock"  # while a run is in the folder
DATA = (CONFIG, WEIGHTS, GOLDEN, RECIPE, TRAINING, RESULTS, TEST_ROWS)  # what code reads
PUBLISHED = (*DATA, CARD, PICTURE, CURVE)  # what goes to the Hub
FILES = (*PUBLISHED, SCORES)  # what is saved together
