"""One file on a device and on the CPU."""

from dataclasses import dataclass

import numpy as np
import pytest
import yolo_sized

from inference_server.engine import Device, LoadedModel, ModelVersion, PreparedModels, choose_device, load
from inference_server.errors import DeviceUnavailable

SIZE = 256  # so large that anchors are chosen on the device


# How far apart scores may be, by device and whether they are halves; what TensorRT calls fp32 is TF32.
TOLERANCES = {("cuda", False): 1e-3, ("cuda", True): 1e-2, ("tensorrt", False): 1e-2, ("tensorrt", True): 3e-2}


@dataclass
class Pair:
    """The same file on both devices."""

    on_device: LoadedModel
    on_cpu: LoadedModel
    half: bool
    tolerance: float
    size: int = SIZE

    def frames(self, count):
        return list(np.random.default_rng(count).integers(0, 256, (count, SIZE, SIZE, 3), np.uint8))

    def check(self, count):
        """A batch, padded and bound, answers as the CPU does."""
        frames = self.frames(count)
        for found, expected in zip(self.on_device.run(frames), self.on_cpu.run(frames), strict=True):
            one, other = found["output0"].astype(np.float32), expected["output0"].astype(np.float32)
            np.testing.assert_allclose(one[4:], other[4:], atol=self.tolerance)
            np.testing.assert_allclose(one[:4], other[:4], atol=SIZE * self.tolerance)


@pytest.fixture(scope="module")
def device(request):
    """The device that the module is about, its KIND."""
    kind = request.module.KIND
    try:
        return choose_device(kind)
    except DeviceUnavailable as error:
        pytest.skip(f"no {kind} device: {error}")


@pytest.fixture(scope="module")
def write_model(tmp_path_factory):
    """A file; `fp16` as yolo_sized takes it."""

    def write(**options):
        return ModelVersion(
            "yolo", 1, yolo_sized.write(tmp_path_factory.mktemp("yolo") / "m.onnx", size=SIZE, **options)
        )

    return write


@pytest.fixture(scope="module", params=[False, True], ids=["fp32", "fp16"])
def pair(request, device, write_model, tmp_path_factory):
    version, half = write_model(fp16=request.param), request.param
    keep = PreparedModels(tmp_path_factory.mktemp("prepared"), 1 << 31) if device.kind == "tensorrt" else None
    models = [load(version, where, prepared=keep) for where in (device, Device("cpu"))]
    yield Pair(*models, half, TOLERANCES[device.kind, half])
    for model in models:
        model.close()
