"""Compiled loops of the fusions."""
