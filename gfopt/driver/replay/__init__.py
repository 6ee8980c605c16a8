"""Replay logs: runs of zeroth-order methods as scalars."""
