"""Makes the network of the built-in lifter `temporal`: material, training, and the shipped file."""
