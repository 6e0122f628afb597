"""Where clips come from: each file reads one way of laying out annotations and media."""
