"""Evolution strategies of seeds, and natural evolution strategies."""
