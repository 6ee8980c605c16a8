"""Spaces: bounds, scales, integers and choices, and the numbers that are searched."""
