"""Root finding, implicit derivatives and log-determinants of residual maps `x + g(x)`.

This folder uses torch and nothing else of the package. Its subject is a function `g` from
`[B, ...]` to the same shape whose rows do not interact.
"""
