"""What advances a search: compiled, or with calls of Python."""
