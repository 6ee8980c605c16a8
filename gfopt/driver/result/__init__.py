"""What a search gives back: its result, history, endings and failures."""
