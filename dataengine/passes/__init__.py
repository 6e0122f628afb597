"""The passes of a build, one file each."""
