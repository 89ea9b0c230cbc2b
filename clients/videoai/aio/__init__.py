"""The asyncio clients."""

from videoai.aio.inference import InferenceClient
from videoai.aio.registry import RegistryClient

__all__ = ["InferenceClient", "RegistryClient"]
