"""Clients of the model registry and the inference server; videoai.aio has the same for asyncio."""

from videoai.errors import VideoAIError
from videoai.sync.inference import InferenceClient
from videoai.sync.registry import RegistryClient

__all__ = ["InferenceClient", "RegistryClient", "VideoAIError"]
