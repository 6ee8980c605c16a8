"""Wrappers: optimizers around an optimizer, each of which changes one thing."""
