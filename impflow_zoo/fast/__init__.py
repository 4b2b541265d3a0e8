"""Bound nets that are differentiated by hand.

This room may be deleted: everything works without it, slower. `transforms/binding.py` alone knows
of it.
"""

from impflow_zoo.fast.choice import faster

__all__ = ["faster"]
