"""Lazy leaves: matrices that an unmodified model takes in place of its weights."""
