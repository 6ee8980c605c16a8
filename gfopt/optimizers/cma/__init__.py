"""CMA-ES and its relatives: full, separable, of low rank, with a model."""
