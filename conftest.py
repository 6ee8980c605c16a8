"""What needs torch is collected where torch is installed."""

from importlib.util import find_spec

collect_ignore = [] if find_spec("torch") else ["gfopt/torch", "docs/torch.md"]
