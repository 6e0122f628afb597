"""Experts in a process of their own."""
