"""KServe's Python server with one ONNX model: python kserve_server.py MODEL.onnx GRPC_PORT HTTP_PORT."""

from __future__ import annotations

import sys

import onnxruntime
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer


class OnnxModel(Model):
    def __init__(self, name: str, path: str) -> None:
        super().__init__(name)
        self._path = path
        self.load()

    def load(self) -> bool:
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(self._path, options, providers=["CPUExecutionProvider"])
        self.ready = True
        return True

    def predict(self, payload: InferRequest, headers: object = None, response_headers: object = None) -> InferResponse:
        (means,) = self._session.run(None, {"frames": payload.inputs[0].as_numpy()})
        output = InferOutput("means", list(means.shape), "FP32")
        output.set_data_from_numpy(means, binary_data=True)
        return InferResponse(payload.id, self.name, [output])


if __name__ == "__main__":
    path, grpc_port, http_port = sys.argv[1:]
    server = ModelServer(
        http_port=int(http_port), grpc_port=int(grpc_port), workers=1, enable_docs_url=False, access_log_format=None
    )
    server.start([OnnxModel("means", path)])
