"""Datasets in the file formats of other programs, one file a format; `run.export` is what the command calls."""
