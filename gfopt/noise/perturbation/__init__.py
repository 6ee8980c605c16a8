"""Noise inside lazy leaves: changes of a matrix that are never made in full."""
