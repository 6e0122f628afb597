"""One file a method: what it draws from a clip, and the loss of a batch of that."""
