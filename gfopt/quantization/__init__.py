"""Quantized weights: integer codes that are frozen, scales that are trained."""
