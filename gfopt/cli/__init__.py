"""The command line, one file to a sub-command."""
