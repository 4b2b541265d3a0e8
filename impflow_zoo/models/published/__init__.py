"""What converted checkpoints of the public code need beside the package: layers, nets, configs.

No other room knows this one. `models/config.py` imports it when a file asks for a kind of model
that is defined here.
"""

from impflow_zoo.models.published import build  # which says how to build from these configs
from impflow_zoo.models.published.config import PublishedImageConfig, PublishedTabularConfig

__all__ = ["KINDS", "PublishedImageConfig", "PublishedTabularConfig", "build"]

KINDS = {config.kind: config for config in (PublishedTabularConfig, PublishedImageConfig)}
