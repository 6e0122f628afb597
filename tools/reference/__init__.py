"""The reference pages of the documentation, made from the code; see `tools.reference.site`."""
