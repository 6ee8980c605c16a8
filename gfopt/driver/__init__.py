"""The drivers: run, minimize, ask and tell, checkpoints."""
