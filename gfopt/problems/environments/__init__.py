"""Environments, policies for them, and episodes as objectives."""
