"""What all cases have in common: a seed makes them, a server takes them, an oracle judges how."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Collection
from dataclasses import dataclass
from time import monotonic
from typing import Any

import grpc
from hosts import Host
from ledger import Ledger
from oracle import ALLOWED, Outcome, judge
from shared_memory import Memories
from videoai.inference.v1 import inference_pb2 as pb

LIMIT_SECONDS = 60.0
"""A call that takes longer hangs: a decoder may think for 10 s and be asked, and another 10 s pass, in between."""
SENDING_FAILED = "Internal error from Core"
"""What grpc.aio's own client says, with INTERNAL, of some calls that the server ends while a message is on its way."""
LOST = "ENDED WHILE SENDING"
"""How such a call is counted: its status was lost by the client; the server's own count says what it was."""


@dataclass(frozen=True, slots=True)
class Target:
    """The server as one case sees it, and the hosts and memory that it is told of."""

    channel: grpc.aio.Channel
    ledger: Ledger
    host: Host
    memories: Memories

    def stub(self, kind: Any) -> Any:
        return kind(self.channel)


class Case:
    """What the seed `number` makes. `inputs`: what is sent, for a debugger."""

    kind = ""
    allowed: Collection[str] = ALLOWED

    def __init__(self, number: int) -> None:
        self._rng = random.Random(number)  # noqa: S311 - choices, not secrets
        self.number = number
        self.what = ""
        self.inputs: list[bytes] = []
        self.cancelled = self.sound = False

    async def run(self, target: Target) -> Outcome:
        """Send it, and judge what comes back."""
        outcome = Outcome(self.number, self.what, sum(map(len, self.inputs)), kind=self.kind, sound=self.sound)
        began = monotonic()
        try:
            async with asyncio.timeout(2 * LIMIT_SECONDS + 10):
                await self._send(target, outcome)
        except TimeoutError:
            outcome.status, outcome.message = "HANGS", "it did not even end with its deadline"
        outcome.seconds = monotonic() - began
        judge(outcome, self.allowed, cancelled=self.cancelled)
        return outcome

    async def _send(self, target: Target, outcome: Outcome) -> None:
        raise NotImplementedError

    async def _receive(self, target: Target, call: Any, outcome: Outcome, take: int | None = None) -> list[Any]:
        """The answers of a stream of answers, and how it ended; cancelled after `take` of them."""
        responses: list[Any] = []
        try:
            async for response in call:
                responses.append(response)
                if len(responses) == take:
                    call.cancel()
        except (grpc.aio.AioRpcError, asyncio.CancelledError):
            if not call.done():
                raise
        self._note(target, outcome, (await call.code()).name, await call.details() or "")
        return responses

    async def _ask(self, target: Target, method: str, request: bytes, outcome: Outcome) -> bytes | None:
        """Send bytes, and get bytes, whatever they are."""
        call = target.channel.unary_unary(method)(request, timeout=LIMIT_SECONDS)
        try:
            answer: bytes = await call
        except grpc.aio.AioRpcError as error:
            self._note(target, outcome, error.code().name, error.details() or "", method)
            return None
        self._note(target, outcome, "OK", "", method)
        return answer

    def _note(self, target: Target, outcome: Outcome, status: str, message: str, method: str = "") -> None:
        if message == SENDING_FAILED:
            status = LOST
        outcome.status, outcome.message = status, message
        outcome.method = method or outcome.method
        hidden = self.cancelled or status in (LOST, "DEADLINE_EXCEEDED")  # the last by the caller's own clock
        target.ledger.saw(outcome.method, "" if hidden else status)


def choose_config(rng: random.Random, model: str) -> pb.AnalyzeConfig:
    """How to sample: mostly everything."""
    config = pb.AnalyzeConfig(model_name=model)
    match rng.randrange(10):
        case 0:
            config.stride = rng.choice((2, 3, 1000))
        case 1:
            config.frames_per_second = rng.choice((0.01, 5, 10_000))
        case 2:
            config.start_seconds, config.end_seconds = 0.1, 0.2
        case 3:
            config.max_frames = 2
        case 4:
            config.delivery = pb.DELIVERY_LATEST
    return config
