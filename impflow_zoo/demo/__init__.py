"""The demo: a page in the browser that shows a model, its numbers and what it makes of a file."""

from impflow_zoo.demo.server import serve

__all__ = ["serve"]
