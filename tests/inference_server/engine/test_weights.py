"""Models with weights in other files: they run as if all were in one, and what is digested is what runs."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
import pytest

from inference_server.engine import Device, ModelVersion, load, weights
from inference_server.errors import ModelRefused


@pytest.fixture
def apart(tmp_path, small_detector):
    """A function that writes a detector with its weights in `weights.bin` and announces it."""

    def make(sha256="", **how):
        path = tmp_path / "m" / "model.onnx"
        path.parent.mkdir()
        onnx.save(small_detector(), path, save_as_external_data=True, location="weights.bin", size_threshold=0, **how)
        return ModelVersion("thing", 1, path, sha256)

    return make


def digest_of(path: Path) -> str:
    names = ("model.onnx", "weights.bin")
    lines = [f"{hashlib.sha256((path.parent / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


@pytest.mark.parametrize("convert_attribute", [False, True])
def test_it_answers_as_the_model_of_one_file(apart, loaded, small_detector, convert_attribute):
    version = apart(convert_attribute=convert_attribute)
    model = load(version, Device("cpu"))
    frame = np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8)
    expected = loaded(small_detector()).run([frame])[0]["output0"]
    np.testing.assert_array_equal(model.run([frame])[0]["output0"], expected)
    assert model.sha256 == digest_of(version.path)
    model.close()


def test_the_announced_digest_is_that_of_all_files(apart):
    version = apart()
    named = ModelVersion("thing", 1, version.path, digest_of(version.path))
    load(named, Device("cpu")).close()
    alone = hashlib.sha256(version.path.read_bytes()).hexdigest()
    with pytest.raises(ModelRefused, match=f"expected sha256 {alone}, found {named.sha256} for its 2 files together"):
        load(ModelVersion("thing", 1, version.path, alone), Device("cpu"))
    data = bytearray((version.path.parent / "weights.bin").read_bytes())
    data[0] ^= 1
    (version.path.parent / "weights.bin").write_bytes(data)
    with pytest.raises(ModelRefused, match="changed on disk: expected sha256"):
        load(named, Device("cpu"))


def test_a_model_that_is_linked_to_takes_the_weights_beside_it(apart, tmp_path):
    version = apart()
    (tmp_path / "link.onnx").symlink_to(version.path)
    load(ModelVersion("thing", 1, tmp_path / "link.onnx", digest_of(version.path)), Device("cpu")).close()


def test_weights_that_are_gone_or_cut_short(apart):
    version = apart()
    path = version.path.parent / "weights.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ModelRefused, match=r"model.onnx: tensor '\w+': expected bytes of 'weights.bin'"):
        load(version, Device("cpu"))
    path.unlink()
    with pytest.raises(ModelRefused, match=r"weights 'weights.bin': cannot be read: No such file"):
        load(version, Device("cpu"))


def test_more_than_fits_into_one_message(apart, monkeypatch):
    version = apart()
    with (version.path.parent / "weights.bin").open("ab") as file:
        file.truncate(weights.MAX_BYTES + 1)
    with pytest.raises(ModelRefused, match="expected at most 2147483647 bytes of weights in all, found 2147483648"):
        load(version, Device("cpu"))


def test_one_file_that_many_tensors_claim_whole_is_counted_as_often(apart, monkeypatch):
    version = apart()
    model = onnx.load(version.path, load_external_data=False)
    for number in range(100):
        tensor = model.graph.initializer.add(name=f"t{number}", data_location=onnx.TensorProto.EXTERNAL)
        tensor.external_data.add(key="location", value="weights.bin")
    version.path.write_bytes(model.SerializeToString())
    monkeypatch.setattr(weights, "MAX_BYTES", 100_000)
    with pytest.raises(ModelRefused, match="expected at most 100000 bytes of weights in all"):
        load(version, Device("cpu"))
