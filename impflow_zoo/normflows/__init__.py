"""The blocks as layers of normflows."""

from impflow_zoo.normflows.layers import (
    ImpFlowLayer,
    ResFlowLayer,
    TransformLayer,
    from_residual,
    from_transform,
)

__all__ = ["ImpFlowLayer", "ResFlowLayer", "TransformLayer", "from_residual", "from_transform"]
