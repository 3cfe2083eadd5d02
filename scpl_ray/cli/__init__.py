"""The command line, one command a file; `--help` imports neither torch nor ray."""
