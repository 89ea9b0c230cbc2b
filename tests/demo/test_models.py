import ast
import hashlib

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from demo import models


@pytest.mark.parametrize("version", models.VERSIONS)
def test_the_same_file_comes_out_every_time(tmp_path, version):
    digests = set()
    for name in ("a", "b"):
        models.write(models.VERSIONS[version], tmp_path / name / "model.onnx")
        digests.add(hashlib.sha256((tmp_path / name / "model.onnx").read_bytes()).hexdigest())
    assert len(digests) == 1


@pytest.mark.parametrize(("version", "batch"), [(1, "1"), (2, "batch")])
def test_the_file_is_laid_out_as_ultralytics_exports(version, batch):
    detector = models.VERSIONS[version]
    model = models.build(detector)
    onnx.checker.check_model(model, full_check=True)
    props = {
        entry.key: ast.literal_eval(entry.value) for entry in model.metadata_props if entry.key in ("names", "imgsz")
    }
    assert tuple(props["names"].values()) == models.CLASS_NAMES[version]
    assert props["imgsz"] == [detector.size, detector.size]
    (images,), (output,) = model.graph.input, model.graph.output
    shapes = [
        [size.dim_param or str(size.dim_value) for size in value.type.tensor_type.shape.dim]
        for value in (images, output)
    ]
    anchors = len(detector.shapes) * detector.grid**2
    assert (images.name, output.name) == ("images", "output0")
    assert shapes == [
        [batch, "3", str(detector.size), str(detector.size)],
        [batch, str(4 + len(detector.shapes)), str(anchors)],
    ]


def test_the_command_writes_both_where_it_says(tmp_path):
    result = CliRunner().invoke(models.main, [str(tmp_path)])
    assert result.exit_code == 0
    written = [tmp_path / "v1" / "model.onnx", tmp_path / "v2" / "model.onnx"]
    assert result.output.split() == [str(path) for path in written]
    assert all(onnx.load(path).graph.node for path in written)


def test_the_classes_of_both_versions():
    assert models.CLASS_NAMES == {1: ("red circle",), 2: ("red circle", "green square", "blue diamond")}
    assert len({shape.colour for shape in models.V2.shapes}) == 3
    assert np.allclose([sum(shape.colour) for shape in models.V2.shapes], 0)  # grey is no colour
