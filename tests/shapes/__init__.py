"""Systems put on other shapes of disks, inside a guest; see tests/qemu/test_other_shape_boot.py."""

ROOT_TAR = "ROOT-TAR"
LEGS = ("LEG-0", "LEG-1")
ALONE = "ALONE"
"""Serials of the disks that the guest is given: the captured tree, and what it is put on."""
PASSPHRASE = "open sesame"
