"""A template in a store: the registry protocol, the format of its blobs, both checked as read."""
