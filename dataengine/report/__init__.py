"""Report: the page, the card and the pictures of a dataset."""
