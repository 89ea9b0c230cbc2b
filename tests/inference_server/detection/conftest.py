import pytest

from inference_server.detection import GraphSignature, TensorSpec


@pytest.fixture
def signature():
    """A function that makes the signature of a detector; by default one of 80 classes as Ultralytics exports it."""

    def make(inputs=(1, 3, 640, 640), outputs=(1, 84, 8400), dtype="float32", **metadata):
        metadata.setdefault("names", str({index: f"thing {index}" for index in range(80)}))
        return GraphSignature(
            tuple(TensorSpec(f"images{index or ''}", dtype, shape) for index, shape in enumerate(_several(inputs))),
            tuple(TensorSpec(f"output{index}", dtype, shape) for index, shape in enumerate(_several(outputs))),
            {key: value for key, value in metadata.items() if value is not None},
        )

    return make


def _several(shapes):
    return [shapes] if shapes is None or not shapes or not isinstance(shapes[0], tuple) else shapes
