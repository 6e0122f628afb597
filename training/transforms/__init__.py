"""What is done to a clip before a network sees it."""
