"""Datasets: reading, index, verification, takedown, queries."""
