"""What converted checkpoints of the public code need beside the package: layers, nets, configs.

No other room knows this one. `models/config.py` imports it when a file asks for a kind of model
that is defined here, and importing it adds these kinds to those that are known.
"""

from impflow_zoo.models.build import BUILDERS
from impflow_zoo.models.config import CONFIGS
from impflow_zoo.models.published.build import PublishedImageBuilder, PublishedTableBuilder
from impflow_zoo.models.published.config import PublishedImageConfig, PublishedTabularConfig

__all__ = ["PublishedImageConfig", "PublishedTabularConfig"]

for config, builder in (
    (PublishedTabularConfig, PublishedTableBuilder),
    (PublishedImageConfig, PublishedImageBuilder),
):
    CONFIGS[config.kind] = config
    BUILDERS[config] = builder
