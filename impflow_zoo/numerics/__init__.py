"""Root finding, implicit derivatives and log-determinants of residual maps `x + g(x)`.

This room knows torch and nothing of the rest of the package. Its subject is one object,
a function `g` from `[B, ...]` to the same shape whose rows do not interact.
"""
