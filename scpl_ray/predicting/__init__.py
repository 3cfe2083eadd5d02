"""Answers to texts, files and folders: what the inputs are, read in a stream, and written down."""
