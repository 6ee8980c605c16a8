"""The trials of a search whose evaluations are the caller's."""
