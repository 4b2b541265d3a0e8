"""The blocks as nflows transforms."""
