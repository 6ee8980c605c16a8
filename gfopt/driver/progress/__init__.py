"""What a person at the terminal sees and does: the progress line, Ctrl-C."""
