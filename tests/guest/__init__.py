"""Tests that run as root inside a booted boot image; see tests/harness/guest.py."""
