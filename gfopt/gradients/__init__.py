"""Gradients of black boxes, for optax and for training loops."""

from gfopt.gradients.black_boxes import black_box
from gfopt.gradients.gradients import GradientEstimator, gradient_estimator
from gfopt.gradients.sketches import per_sample_directional_derivatives

__all__ = [
    "GradientEstimator",
    "black_box",
    "gradient_estimator",
    "per_sample_directional_derivatives",
]
