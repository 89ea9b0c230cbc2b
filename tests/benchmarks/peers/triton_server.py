"""Triton, as nvidia-pytriton brings it, one model: python triton_server.py MODEL.onnx GRPC_PORT HTTP_PORT TOKEN."""

from __future__ import annotations

import sys

import numpy as np
import onnxruntime
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig, TritonSecurityConfig


def main() -> None:
    path, grpc_port, http_port, token = sys.argv[1:]
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    @batch
    def infer(frames: np.ndarray) -> dict[str, np.ndarray]:
        return {"means": session.run(None, {"frames": frames})[0]}

    config = TritonConfig(grpc_port=int(grpc_port), http_port=int(http_port), allow_metrics=False)
    with Triton(config=config, security_config=TritonSecurityConfig(access_token=token)) as triton:
        triton.bind(
            "means",
            infer,
            inputs=[Tensor(name="frames", dtype=np.uint8, shape=(640, 640, 3))],
            outputs=[Tensor(name="means", dtype=np.float32, shape=(8,))],
            config=ModelConfig(max_batch_size=8, batcher=DynamicBatcher(max_queue_delay_microseconds=0)),
        )
        triton.serve()


if __name__ == "__main__":
    main()
