"""Looks into a built dataset: drawn skeletons, the report page and the dataset card."""
