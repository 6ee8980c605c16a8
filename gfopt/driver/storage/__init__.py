"""The record container, and trees in it; it knows nothing of searches."""
