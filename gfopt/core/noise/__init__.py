"""Noise on parameter trees: families, the law of their draws, sums."""
