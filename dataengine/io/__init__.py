"""Files: storage, shards, arrays, weights, downloads."""
