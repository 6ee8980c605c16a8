"""From what people pass to a search that is ready: start, method, scale."""
