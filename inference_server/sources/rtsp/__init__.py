"""Cameras over RTSP: pictures asked for and received on one connection, and handed to the decoder as Matroska."""

from inference_server.sources.rtsp.source import RtspSource

__all__ = ["RtspSource"]
