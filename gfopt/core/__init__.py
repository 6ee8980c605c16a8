"""The evaluation core: objective, evaluators, noise, lazy leaves, shaping, spaces."""
