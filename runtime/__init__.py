"""How an artifact is loaded here and how a check reaches a device."""
