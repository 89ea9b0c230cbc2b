"""Sources that the server reads by itself: files in folders, and streams from hosts, that the operator allows.

Nothing is allowed by default. The decoders stay without a network: the server connects, after it has checked where to,
and hands them an open file or bytes.
"""

from inference_server.sources.connecting import Network
from inference_server.sources.hosts import AllowedHosts, HostRule
from inference_server.sources.policy import SourcePolicy
from inference_server.sources.source import Gap, Patience, Source
from inference_server.sources.stream import SourceStream

__all__ = ["SourcePolicy", "Network", "AllowedHosts", "HostRule", "Source", "SourceStream", "Patience", "Gap"]
