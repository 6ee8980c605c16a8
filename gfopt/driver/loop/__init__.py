"""The loop of ``minimize``: path, data, checkpoints, end."""
