"""The asyncio clients."""

from videoai.aio.registry import RegistryClient

__all__ = ["RegistryClient"]
