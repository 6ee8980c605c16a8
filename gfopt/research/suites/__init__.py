"""Suites beside BBOB, the digits and Atari: lists of problems, and what they cost."""
