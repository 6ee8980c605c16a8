"""Zeroth-order methods: steps along random directions, two evaluations each."""
