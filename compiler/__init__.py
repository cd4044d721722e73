"""The driver: neither a rewrite nor a device."""
