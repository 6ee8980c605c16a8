"""Gradients of black boxes, for optax and for training loops."""
