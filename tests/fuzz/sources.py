"""Cases of AnalyzeSource: files, and hosts that speak HTTP and RTSP badly."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import corpus
from case import LIMIT_SECONDS, Case, Target, choose_config
from hosts import Script
from mutations import mutate, mutate_text
from oracle import ALLOWED, Outcome, check_video, note_lost_decoder
from recordings import Dialogue
from videoai.inference.v1 import inference_pb2 as pb
from videoai.inference.v1 import inference_pb2_grpc

METHOD = "/videoai.inference.v1.InferenceService/AnalyzeSource"
REFUSED = {"NOT_FOUND", "PERMISSION_DENIED", "FAILED_PRECONDITION", "UNAVAILABLE"}
CANCELLED_SHARE, SOUND_SHARE, STALL_SHARE = 0.03, 0.1, 0.02
PATIENCE = 0.5  # seconds, of a host with damaged answers
_CHALLENGE = (
    b'RTSP/1.0 401 Unauthorized\r\nCSeq: 1\r\nWWW-Authenticate: Digest realm="a", nonce="b", qop="auth"\r\n\r\n'
)
_TYPE = b"Content-Type: multipart/x-mixed-replace; boundary=frame\r\n"
_WAYS = ("file", "file", "uri", "http", "http", "http", "parts", "rtsp", "rtsp", "rtsp")


@dataclass(frozen=True, slots=True)
class Sources:
    """What sources are made of; files are put into `folder`, which the server may read."""

    videos: Mapping[str, bytes]
    pictures: Mapping[str, bytes]
    dialogues: Mapping[str, Dialogue]
    folder: Path


class SourceCase(Case):
    """One source. A share of them are sound: whatever their form, every frame must be answered."""

    kind = "source"

    def __init__(self, number: int, sources: Sources, model: str) -> None:
        super().__init__(number)
        rng = self._rng
        self._sources = sources
        self.sound = rng.random() < SOUND_SHARE
        self.cancelled = not self.sound and rng.random() < CANCELLED_SHARE
        self._take = rng.randrange(4) if self.cancelled else None
        self._file: bytes | None = None
        self._script: Script | None = None
        self._scheme, self._user, self._uri = "http", "", ""
        way = rng.choice(_WAYS)
        self.what = f"{way} {getattr(self, f'_make_{way}')(rng)}"
        self._config = pb.AnalyzeConfig(model_name=model) if self.sound else choose_config(rng, model)
        self._request = pb.AnalyzeSourceRequest(
            config=self._config, max_reconnects=int(rng.random() < 0.2), give_up_seconds=rng.choice((1, 3))
        )
        if self._script:
            self._script = self._badly(self._script, rng)

    @property
    def path(self) -> Path:
        return self._sources.folder / f"case-{self.number}.video"

    async def _send(self, target: Target, outcome: Outcome) -> None:
        if self._file is not None:
            self.path.write_bytes(self._file)
        if self._script is not None:
            target.host.scripts[self.number] = self._script
        try:
            await self._analyze(target, outcome)
        finally:
            target.host.scripts.pop(self.number, None)
            self.path.unlink(missing_ok=True)

    async def _analyze(self, target: Target, outcome: Outcome) -> None:
        self._request.uri = self._address(target)
        stub = target.stub(inference_pb2_grpc.InferenceServiceStub)
        outcome.method = METHOD
        call = stub.AnalyzeSource(self._request, timeout=LIMIT_SECONDS)
        responses = await self._receive(target, call, outcome, self._take)
        outcome.frames = sum(response.HasField("frame") for response in responses)
        for response in responses:
            note_lost_decoder(outcome, response.gap.reason)
        whole = outcome.status == "OK" or bool(responses and responses[-1].HasField("summary"))
        outcome.problems += check_video(responses, whole=whole)
        if self.sound and (outcome.status, outcome.frames) != ("OK", corpus.FRAMES):
            outcome.problems.append(
                f"it is sound, but {outcome.frames} frames were answered: {outcome.status}: {outcome.message}"
            )

    def _address(self, target: Target) -> str:
        sound = f"file://{self.path}" if self._script is None else target.host.url(self._scheme, self.number)
        sound = sound.replace("://", f"://{self._user}", 1)
        return mutate_text(sound.encode(), self._rng).decode("latin-1") if self._uri else sound

    def _make_file(self, rng: random.Random) -> str:
        self.allowed = ALLOWED
        self._file, what = self._content(rng, damaged=True)
        return what

    def _make_uri(self, rng: random.Random) -> str:
        """A sound file or host at an address that is mutated; the server may reach no other."""
        what = self._make_file(rng) if rng.random() < 0.5 else self._make_http(rng)
        self._uri = "" if self.sound else "mutated"
        self.allowed = ALLOWED | REFUSED
        return what

    def _make_http(self, rng: random.Random) -> str:
        damage = self._damage(rng, "content", "content", "framing", "head", "none")
        data, what = self._content(rng, damaged=damage == "content")
        framing = rng.choice(("length", "close", "chunks") if self.sound else tuple(_FRAMINGS))
        head, body = _FRAMINGS[framing](data, rng)
        return f"{what}, {self._respond(head, body, damage, rng)}, {framing}"

    def _make_parts(self, rng: random.Random) -> str:
        damage = self._damage(rng, "content", "framing", "framing", "head", "none")
        pictures = [self._sources.pictures["jpeg"]] * corpus.FRAMES
        if damage == "content":
            pictures = [mutate(self._sources.pictures, rng)[0] if rng.random() < 0.4 else one for one in pictures]
        lengths = rng.random() < 0.5
        parts = (b"Content-Length: %d\r\n\r\n%s" % (len(one), one) if lengths else b"\r\n" + one for one in pictures)
        body = b"".join(b"\r\n--frame\r\nContent-Type: image/jpeg\r\n" + part for part in parts) + b"\r\n--frame--\r\n"
        return self._respond(_TYPE, body, damage, rng)

    def _respond(self, head: bytes, body: bytes, damage: str, rng: random.Random) -> str:
        self.allowed = ALLOWED | REFUSED
        head = b"HTTP/1.1 200 OK\r\nServer: fuzz\r\n" + head
        if damage == "head":
            head = mutate_text(head + b"Location: /case-%d" % self.number, rng) + b"\r\n"
        elif damage == "framing":
            body, _ = mutate({"body": body}, rng)
        self._script = Script((head + b"\r\n" + body,))
        return f"damaged {damage}"

    def _make_rtsp(self, rng: random.Random) -> str:
        self.allowed = ALLOWED | REFUSED
        self._scheme = "rtsp"
        name = rng.choice([*self._sources.dialogues])
        dialogue = self._sources.dialogues[name]
        replies = [*dialogue.answers, dialogue.media[0]]
        media = b"".join(dialogue.media[1:])
        damage = self._damage(rng, "media", "media", "text", "text", "bytes", "order", "none")
        if rng.random() < 0.3:
            self._user = "user:password@"
            replies.insert(0, _CHALLENGE)
        at = rng.randrange(len(replies))
        match damage:
            case "media":
                media, _ = mutate({"media": media}, rng)
            case "text":
                replies[at] = mutate_text(replies[at], rng)
            case "bytes":
                replies[at], _ = mutate({"reply": replies[at]}, rng)
            case "order":
                replies.insert(at, replies.pop(rng.randrange(len(replies))))
        if not self.sound and rng.random() < 0.3:
            replies = [reply.replace(b"npt=0-0.32", b"npt=now-  ") for reply in replies]
        replies[-1] += media
        self._script = Script(tuple(replies), end="stall")
        return f"{name}, damaged {damage}"

    def _content(self, rng: random.Random, *, damaged: bool) -> tuple[bytes, str]:
        if damaged and not self.sound:
            return mutate(self._sources.videos, rng)
        name = rng.choice([*self._sources.videos])
        return self._sources.videos[name], name

    def _damage(self, rng: random.Random, *kinds: str) -> str:
        return "none" if self.sound else rng.choice(kinds)

    def _badly(self, script: Script, rng: random.Random) -> Script:
        """In pieces of any size, and with an end that is not always friendly."""
        self.inputs = [*script.replies]
        script = replace(script, piece=rng.choice((65_536, 65_536, 1460, 100)))
        if self.sound:
            return script
        ends: Sequence[str] = ("stall",) if rng.random() < STALL_SHARE else ("close", "close", "reset")
        return replace(script, end=rng.choice(ends), patience=PATIENCE)


def _length(data: bytes, _rng: random.Random) -> tuple[bytes, bytes]:
    return b"Content-Length: %d\r\n" % len(data), data


def _wrong_length(data: bytes, rng: random.Random) -> tuple[bytes, bytes]:
    return b"Content-Length: %d\r\n" % max(0, len(data) + rng.choice((-1000, -1, 1, 1000, 10**9))), data


def _close(data: bytes, _rng: random.Random) -> tuple[bytes, bytes]:
    return b"Connection: close\r\n", data


def _chunks(data: bytes, rng: random.Random) -> tuple[bytes, bytes]:
    cuts = sorted(rng.randrange(len(data) + 1) for _ in range(rng.choice((0, 3, 20))))
    parts = [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts if part)
    return b"Transfer-Encoding: chunked\r\n", body + b"0\r\n\r\n"


def _endless_chunks(data: bytes, rng: random.Random) -> tuple[bytes, bytes]:
    head, body = _chunks(data, rng)
    return head, body[: -rng.choice((1, 2, 5))]


_FRAMINGS = {
    "length": _length,
    "wrong length": _wrong_length,
    "close": _close,
    "chunks": _chunks,
    "chunks without an end": _endless_chunks,
}
