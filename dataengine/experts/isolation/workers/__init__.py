"""What runs in the environments of isolated experts.

These files are scripts and their helpers: they import each other by file name, numpy, the standard
library and what their own environment holds, and nothing else of this package.
"""
