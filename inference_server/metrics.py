"""The inference server's own Prometheus metrics."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from prometheus_client import Counter, Gauge, Histogram

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)

RUNNING = Gauge(
    "videoai_model_running",
    "1 for the version of each model that answers, with the device and provider that its session really uses.",
    ["model_name", "version", "device", "provider"],
)
FRAMES_ANSWERED = Counter("videoai_frames_answered", "Frames and pictures answered.", ["model_name", "version"])
FRAMES_FAILED = Counter("videoai_frames_failed", "Frames and pictures that could not be answered.", ["model_name"])
FRAMES_DROPPED = Counter("videoai_frames_dropped", "Frames dropped because results were taken slowly.", ["model_name"])
CORRUPT_PACKETS = Counter("videoai_corrupt_packets", "Packets skipped because they did not decode.", ["model_name"])
ACTIVATIONS = Counter(
    "videoai_model_activations", "Versions that were applied or rejected by this server.", ["model_name", "outcome"]
)
LOAD_SECONDS = Histogram(
    "videoai_model_load_seconds",
    "Time to verify, load and warm up a version.",
    ["model_name"],
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
)
BATCH_SIZE = Histogram(
    "videoai_batch_size",
    "Frames, or rows of tensors, in a batch, without those that only fill it up.",
    ["model_name"],
    buckets=(1, 2, 4, 8, 16, 32, 64),
)
QUEUE_SECONDS = Histogram(
    "videoai_queue_seconds",
    "Time frames and requests for tensors wait for the session.",
    ["model_name"],
    buckets=SECONDS,
)
WAITING = Gauge("videoai_queue_rows", "Frames, and rows of tensors, that wait for the session.", ["model_name"])
REJECTED = Counter("videoai_queue_rejected", "Frames and requests refused because the queue was full.", ["model_name"])
EXPIRED = Counter(
    "videoai_queue_expired", "Frames and requests given up because their deadline passed in the queue.", ["model_name"]
)
INFERENCE_SECONDS = Histogram(
    "videoai_inference_seconds", "Time of a batch in the session.", ["model_name"], buckets=SECONDS
)
STREAMS = Gauge("videoai_streams", "Video streams that are being analysed.")
DECODER_SANDBOX = Gauge(
    "videoai_decoder_sandbox",
    "1 for each layer of the decoders' sandbox, 0 for one that is missing.",
    ["layer"],
)
REGISTRY_CONNECTED = Gauge("videoai_registry_connected", "1 while the watch on the registry is connected and synced.")
FETCHES = Counter(
    "videoai_model_fetches",
    "Files that were not on the volume, by how that ended: cached, downloaded or refused.",
    ["outcome"],
)
FETCHED_BYTES = Counter("videoai_model_fetched_bytes", "Bytes of model files received from the registry.")
CACHE_BYTES = Gauge("videoai_model_cache_bytes", "Bytes in the cache of model files, those on their way counted whole.")


class OfQueue:
    """The metrics of one model's queue, looked up once: a look-up costs more than what is counted."""

    def __init__(self, model_name: str) -> None:
        self.waiting = WAITING.labels(model_name)
        self.rejected = REJECTED.labels(model_name)
        self.expired = EXPIRED.labels(model_name)
        self._batch_size = BATCH_SIZE.labels(model_name)
        self._queue_seconds = QUEUE_SECONDS.labels(model_name)
        self._inference_seconds = INFERENCE_SECONDS.labels(model_name)

    def ran(self, started: float, seconds: float, jobs: Sequence[tuple[int, float]]) -> None:
        """A batch began at `started` and took `seconds`; `jobs` are the rows of each, and since when it was queued."""
        if not jobs:
            return
        self._batch_size.observe(sum(rows for rows, _ in jobs))
        self._inference_seconds.observe(seconds)
        for _, queued_at in jobs:
            self._queue_seconds.observe(started - queued_at)


@cache
def of_queue(model_name: str) -> OfQueue:
    """The metrics of that model's queue."""
    return OfQueue(model_name)
