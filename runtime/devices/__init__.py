"""Where an artifact runs for a check: in process, under qemu-user, on a QEMU board."""
