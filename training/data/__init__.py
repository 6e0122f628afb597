"""Clips to learn from: types, sampler, loader, formats."""
