"""The methods, one family to a file."""
