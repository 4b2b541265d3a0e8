"""The command line, `impflow-zoo`."""

from impflow_zoo.cli.app import app, main

__all__ = ["app", "main"]
