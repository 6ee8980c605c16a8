"""Bayesian optimization: a Gaussian process says where to look next."""
