"""One seed made of several numbers."""

from __future__ import annotations

__all__ = ["mix"]


def mix(*parts: int) -> int:
    """One seed below `2**63` from several integers (the finaliser of splitmix64)."""
    state = 0
    for part in parts:
        state = (state + part + 0x9E3779B97F4A7C15) % 2**64
        state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB % 2**64
        state ^= state >> 31
    return state >> 1
