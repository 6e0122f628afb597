"""Page, card and pictures of a dataset."""
