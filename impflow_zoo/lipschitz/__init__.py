"""Networks whose Lipschitz constant is bounded by construction."""
