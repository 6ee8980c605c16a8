"""The 24 noiseless BBOB functions: formulas, instances, and all in one program."""
