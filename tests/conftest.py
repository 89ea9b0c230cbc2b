"""What every test may rely on."""

import os
import signal

# Tests that take ONNX Runtime without the engine are to be as silent about it.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# A run in the background of a shell inherits an ignored SIGINT, and so would the programs that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)
