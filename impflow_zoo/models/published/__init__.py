"""What converted checkpoints of the public code need beside the package: layers, nets, configs.

No other room knows this one. `models/config.py` imports it when a file asks for a kind of model
that is defined here, and importing it adds these kinds to those that are known.
"""

from impflow_zoo.models.config import CONFIGS
from impflow_zoo.models.published import build  # which says how to build from these configs
from impflow_zoo.models.published.config import PublishedImageConfig, PublishedTabularConfig

__all__ = ["PublishedImageConfig", "PublishedTabularConfig", "build"]

for config in (PublishedTabularConfig, PublishedImageConfig):
    CONFIGS[config.kind] = config
