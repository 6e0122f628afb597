"""Programs that make what is shipped; nothing imports them."""
