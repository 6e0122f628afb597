"""From the labels that sources give to the labels of a dataset."""
