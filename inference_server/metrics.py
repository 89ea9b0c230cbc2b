"""The inference server's own Prometheus metrics."""

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
BATCH_SIZE = Histogram("videoai_batch_size", "Frames in a batch.", ["model_name"], buckets=(1, 2, 4, 8, 16, 32, 64))
QUEUE_SECONDS = Histogram("videoai_queue_seconds", "Time frames wait for the session.", ["model_name"], buckets=SECONDS)
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
