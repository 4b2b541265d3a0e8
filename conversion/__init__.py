"""Checkpoints of the two papers' public training scripts become models of the zoo.

    python -m conversion CHECKPOINT.pth OUT_FOLDER

The only place where pickles are read. None of their code runs: see `conversion.pickles`.
"""
