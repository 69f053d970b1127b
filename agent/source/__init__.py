"""What a machine that is to be captured has on its disks, opened without ever writing to it."""
