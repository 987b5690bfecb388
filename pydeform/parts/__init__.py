"""Small parts that stand beside convolutions in published networks, as exact functions.

Each is written like a recipe, so `pydeform.recipes.vjp` has its gradients.
"""

from pydeform.parts.layers import dilated_conv, feature_reuse, per_position_head
from pydeform.parts.pooling import (
    context_aggregate,
    context_extract,
    context_pyramid,
    global_context_residual,
    spatial_pyramid_map,
    spatial_pyramid_pool,
)
from pydeform.parts.training import (
    distillation_loss,
    drop_block,
    drop_block_mask,
    label_smoothing_loss,
)

__all__ = [
    "context_aggregate",
    "context_extract",
    "context_pyramid",
    "dilated_conv",
    "distillation_loss",
    "drop_block",
    "drop_block_mask",
    "feature_reuse",
    "global_context_residual",
    "label_smoothing_loss",
    "per_position_head",
    "spatial_pyramid_map",
    "spatial_pyramid_pool",
]
