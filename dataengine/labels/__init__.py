"""Labels: label maps from the labels of sources to those of a dataset, prompts, and the taxonomy."""
