"""Engines: who runs the stages, and where."""
