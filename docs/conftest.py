"""The page on torch runs where torch is installed."""

from importlib.util import find_spec

collect_ignore = [] if find_spec("torch") else ["torch.md"]
