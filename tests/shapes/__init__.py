"""Layouts that tests speak of, and source servers that have them."""

ROOT_TAR = "ROOT-TAR"
"""Serial of the disk with a system's tree that a guest is given, to make source servers of it."""
