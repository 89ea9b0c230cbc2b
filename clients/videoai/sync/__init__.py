"""The synchronous clients."""
