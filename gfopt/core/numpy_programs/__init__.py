"""Small programs without a compiler: a traced function, run in NumPy."""
