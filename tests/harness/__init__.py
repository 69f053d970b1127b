"""One harness that boots real machines in QEMU: for the demo and for the tests."""
