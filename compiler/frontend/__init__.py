"""From a path to a checked, upgraded, shape-bound model, its reference runs and statistics."""
