"""The model registry: which versions of which models exist, and which one is in production."""
