"""What the operator allows, and the source that an address stands for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from inference_server.sources.connecting import Network
from inference_server.sources.files import AllowedFolders, FileSource
from inference_server.sources.http import HttpSource
from inference_server.sources.rtsp import RtspSource
from inference_server.sources.source import Source
from inference_server.sources.uris import FileUri, parse


class SourcePolicy:
    """Turns addresses into sources. Raises OSError if a folder is not there.

    `give_up_seconds`: longest gap of a live source that any stream waits for.
    """

    def __init__(
        self, folders: Sequence[Path] = (), network: Network | None = None, give_up_seconds: float = 300.0
    ) -> None:
        self._network = network or Network()
        self.give_up_seconds = give_up_seconds
        self._folders = AllowedFolders(folders)

    def source(self, uri: str) -> Source:
        """The source at `uri`, not yet connected to. Raises InvalidField and SourceNotAllowed."""
        parsed = parse(uri)
        if isinstance(parsed, FileUri):
            return FileSource(self._folders, parsed.path)
        self._network.hosts.check(parsed.host, parsed.port)
        kind = RtspSource if parsed.scheme in ("rtsp", "rtsps") else HttpSource
        return kind(parsed, self._network)
