"""What every kind of source has in common."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from inference_server.video import DecodedStream, OpenedFile


class SourceLost(Exception):  # noqa: N818 - says what happened
    """A source that was read broke off; the message says how. What has no more to give ends without this."""


class Connection(Protocol):
    """A source that is open. `file` is what the decoder is to read by itself, if it is to.

    A `live` one is connected to again where it breaks off. `clock`: what the source's own clock says at timestamp 0, in
    seconds since 1970, as soon as it is known. `container`: how the video is packed, if not as the decoder sees it.
    """

    @property
    def live(self) -> bool: ...
    @property
    def file(self) -> OpenedFile | None: ...
    @property
    def clock(self) -> float | None: ...
    @property
    def container(self) -> str | None: ...

    async def pump(self, decoded: DecodedStream) -> None:
        """Move the source's bytes to the decoder until the source ends. Raises SourceLost where it breaks off."""


class Source(Protocol):
    """Where a video comes from."""

    def connect(self) -> AbstractAsyncContextManager[Connection]:
        """Open it. Raises SourceError."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How hard to try in one gap; `max_reconnects` None is no limit on the number of attempts."""

    give_up_seconds: float
    max_reconnects: int | None = None


@dataclass(frozen=True, slots=True)
class Gap:
    """How far a gap has come; `began` in seconds since 1970 by the server's clock."""

    index: int
    reason: str
    seconds: float
    attempts: int
    resumed: bool
    began: float
