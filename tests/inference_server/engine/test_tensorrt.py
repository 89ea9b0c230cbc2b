"""TensorRT as far as it shows without a GPU: what it is told, what is said where it lacks, and what is kept of it.

A stand-in for its provider writes the files that it would, and runs the model on the CPU.
"""

import os
import re
import threading
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from structlog.testing import capture_logs

from inference_server.detection import read_settings, recognise
from inference_server.engine import Device, PreparedModels, choose_device, device, load, loading, tensorrt
from inference_server.engine.graph import signature_of
from inference_server.errors import DeviceUnavailable, ModelRefused

TENSORRT, CPU = Device("tensorrt"), Device("cpu")


def missing():
    return tensorrt.load_libraries()


@pytest.fixture
def no_tensorrt():
    if not missing() and tensorrt._needed():
        pytest.skip("this machine has TensorRT")


@pytest.mark.usefixtures("no_tensorrt")
@pytest.mark.parametrize("wanted", ["tensorrt", "tensorrt:1"])
def test_it_is_refused_with_what_is_missing_and_how_to_get_it(wanted, capfd):
    if "TensorrtExecutionProvider" not in device.onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has no provider for it")
    with pytest.raises(DeviceUnavailable) as refusal:
        choose_device(wanted)
    text = str(refusal.value)
    assert text.startswith(f"device tensorrt:{wanted[9:] or 0}: TensorRT's libraries are not installed (libnvinfer.so.")
    assert re.search(r"pip install 'tensorrt-cu\d+>=\d+,<\d+'", text)
    assert "--device cuda" in text
    assert "nvinfer" not in "".join(capfd.readouterr())


def test_libraries_that_are_there_are_no_help_without_cuda(monkeypatch):
    monkeypatch.setattr(device.onnxruntime, "get_available_providers", lambda: list(device.PROVIDERS.values()))
    monkeypatch.setattr(tensorrt, "load_libraries", list)
    monkeypatch.setattr(device, "try_out", lambda _: (_ for _ in ()).throw(RuntimeError("no device")))
    with pytest.raises(
        DeviceUnavailable, match=r"device tensorrt:2: TensorRT runs on CUDA; device cuda:2: .*no device"
    ):
        choose_device("tensorrt:2")


def test_a_session_that_came_up_on_cuda_is_found_out(monkeypatch):
    monkeypatch.setattr(device.onnxruntime, "get_available_providers", lambda: list(device.PROVIDERS.values()))
    monkeypatch.setattr(tensorrt, "load_libraries", list)
    monkeypatch.setattr(Device, "providers", property(lambda _: [("CPUExecutionProvider", {})]))
    monkeypatch.setitem(device.PROVIDERS, "cuda", "CPUExecutionProvider")
    with pytest.raises(DeviceUnavailable, match="asked for TensorrtExecutionProvider came up on CPUExecutionProvider"):
        choose_device("tensorrt")


def test_auto_never_takes_it(monkeypatch):
    asked = []
    monkeypatch.setattr(device, "_probe", asked.append)
    assert choose_device("auto") == Device("cuda")
    assert asked == [Device("cuda")]


def test_cuda_and_the_cpu_take_what_it_does_not():
    (first, own), (second, cuda), (third, _) = Device("tensorrt", 2, memory_limit=1 << 30).providers
    assert (first, second, third) == ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider")
    assert own == {"device_id": "2", "trt_max_workspace_size": str(1 << 30)}
    assert cuda == Device("cuda", 2, memory_limit=1 << 30).providers[0][1]
    assert (str(Device("tensorrt", 2)), Device("tensorrt", 2).memory) == ("tensorrt:2", "cuda")


@pytest.mark.parametrize(
    ("elements", "operators", "on"),
    [
        ({TensorProto.FLOAT, TensorProto.INT64}, {"Conv"}, set()),
        ({TensorProto.FLOAT, TensorProto.FLOAT16}, {"Conv"}, {"fp16"}),
        ({TensorProto.BFLOAT16}, {"Conv"}, {"bf16"}),
        ({TensorProto.FLOAT, TensorProto.INT8}, {"Conv", "DequantizeLinear"}, {"int8"}),
    ],
)
def test_it_computes_as_precisely_as_the_model_asks_for(elements, operators, on):
    options = tensorrt.engine_options(Path("/engines"), elements, operators)
    assert {kind for kind in ("fp16", "bf16", "int8") if options[f"trt_{kind}_enable"] == "1"} == on
    assert options["trt_engine_cache_path"] == options["trt_timing_cache_path"] == "/engines"
    assert options["trt_engine_cache_enable"] == options["trt_timing_cache_enable"] == "1"


def test_half_precision_is_seen_wherever_it_is_in_a_graph(small_detector):
    assert TensorProto.FLOAT16 not in tensorrt.precisions(small_detector())
    assert TensorProto.FLOAT16 in tensorrt.precisions(small_detector(dtype=TensorProto.FLOAT16))
    inside = small_detector()
    half = numpy_helper.from_array(np.zeros(3, np.float16))
    inside.graph.node.append(helper.make_node("Constant", [], ["half"], value=half))
    assert TensorProto.FLOAT16 in tensorrt.precisions(inside)
    cast = small_detector()
    cast.graph.node.append(helper.make_node("Cast", ["images"], ["half"], to=TensorProto.FLOAT16))
    assert TensorProto.FLOAT16 in tensorrt.precisions(cast)


def picture_of(model):
    return recognise(signature_of(model), read_settings({})).picture


def test_one_engine_takes_every_size_that_is_rehearsed(small_detector):
    options = tensorrt.profile_options(picture_of(small_detector(batch="batch")), 8)
    assert options == {
        "trt_profile_min_shapes": "images:1x3x32x48",
        "trt_profile_opt_shapes": "images:8x3x32x48",
        "trt_profile_max_shapes": "images:8x3x32x48",
    }
    last = tensorrt.profile_options(picture_of(small_detector(batch="batch", channels_last=True)), 4)
    assert last["trt_profile_max_shapes"] == "images:4x32x48x3"


def test_no_sizes_are_told_where_they_are_fixed_or_a_name_would_be_misread(small_detector):
    assert tensorrt.profile_options(picture_of(small_detector(batch=4)), 8) == {}
    assert tensorrt.profile_options(None, 8) == {}
    odd = small_detector(batch="batch")
    odd.graph.input[0].name = odd.graph.node[0].input[0] = "images:0"
    assert tensorrt.profile_options(picture_of(odd), 8) == {}


class StandIn:
    """Writes an engine for each model as TensorRT does where there is none, and refuses profiles where told to."""

    def __init__(self):
        self.built, self.timed, self.options, self.niceness = 0, 0, [], []
        self.takes_profiles = True

    def open(self, model, device, plan):
        options = dict(plan.provider_options)
        self.options.append(options)
        if not self.takes_profiles and "trt_profile_min_shapes" in options:
            raise RuntimeError("no associated shape profiles provided: inner")
        folder = Path(options["trt_engine_cache_path"])
        engine, timings = folder / "graph_0_sm90.engine", folder / "cache_sm90.timing"
        if not engine.exists():
            self.built += 1
            self.niceness.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
            engine.write_bytes(b"engine")
            (folder / "graph_0_sm90.profile").write_bytes(b"profile")
        if not timings.exists():
            self.timed += 1
            timings.write_bytes(b"timings")
        return device_module_open(model, CPU)


device_module_open = device.open_session


@pytest.fixture
def stand_in(monkeypatch):
    made = StandIn()
    monkeypatch.setattr(loading, "open_session", made.open)
    monkeypatch.setattr(Device, "memory", property(lambda _: "cpu"))
    return made


@pytest.fixture
def keep(tmp_path):
    return PreparedModels(tmp_path / "prepared", 1 << 30)


def kept(keep):
    return sorted(keep.folder.glob("*"))


def test_engines_are_built_once_at_low_priority_and_kept(stand_in, keep, version_of, small_detector):
    version = version_of(small_detector(batch="batch"))
    for _ in range(2):
        model = load(version, TENSORRT, prepared=keep)
        assert (model.device, model.max_batch, len(model.run([np.zeros((32, 48, 3), np.uint8)] * 3))) == (
            *("tensorrt:0", 8),
            3,
        )
        model.close()
    assert (stand_in.built, stand_in.timed, len(kept(keep))) == (1, 1, 2)
    assert stand_in.niceness[0] > os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    assert not any(Path(options["trt_engine_cache_path"]).exists() for options in stand_in.options)


def test_another_version_has_its_own_engines_and_the_same_timings(stand_in, keep, version_of, small_detector):
    load(version_of(small_detector()), TENSORRT, prepared=keep).close()
    load(version_of(small_detector(more="metadata")), TENSORRT, prepared=keep).close()
    assert (stand_in.built, stand_in.timed, len(kept(keep))) == (2, 1, 3)


@pytest.mark.parametrize("changed", ["gpu", "tensorrt", "driver"])
def test_another_machine_s_engines_are_left_alone(stand_in, keep, version_of, small_detector, monkeypatch, changed):
    version = version_of(small_detector())
    load(version, TENSORRT, prepared=keep).close()
    monkeypatch.setattr(loading, "place", lambda _: {changed: "another"})
    load(version, TENSORRT, prepared=keep).close()
    assert (stand_in.built, stand_in.timed) == (2, 2)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes().replace(b"engine", b"ENGINE")),
    ],
)
def test_damaged_engines_are_built_anew(stand_in, keep, version_of, small_detector, damage):
    version = version_of(small_detector())
    load(version, TENSORRT, prepared=keep).close()
    for path in kept(keep):
        damage(path)
    with capture_logs() as logs:
        load(version, TENSORRT, prepared=keep).close()
    assert "prepared model ignored" in [entry["event"] for entry in logs]
    assert stand_in.built == 2
    load(version, TENSORRT, prepared=keep).close()
    assert stand_in.built == 2


def test_a_kept_file_cannot_name_one_outside_its_folder(keep):
    keep.keep_files("k", {"../engine": b"x"})
    with capture_logs() as logs:
        assert keep.find_files("k") is None
    assert "no file's name" in logs[0]["reason"]


def test_engines_count_towards_the_folder_s_limit(stand_in, version_of, small_detector, tmp_path):
    keep = PreparedModels(tmp_path / "prepared", 100)
    load(version_of(small_detector()), TENSORRT, prepared=keep).close()
    assert kept(keep) == []


def test_engines_grow_where_their_sizes_cannot_be_told(stand_in, keep, version_of, small_detector):
    stand_in.takes_profiles = False
    with capture_logs() as logs:
        load(version_of(small_detector(batch="batch")), TENSORRT, prepared=keep).close()
    assert "inner" in next(entry["reason"] for entry in logs if entry["event"].startswith("engines grow"))
    assert "trt_profile_min_shapes" not in stand_in.options[-1]


def test_a_model_that_does_not_open_either_way_is_refused(stand_in, version_of, small_detector, monkeypatch):
    def refuse(*_):
        raise RuntimeError("no engine")

    monkeypatch.setattr(loading, "open_session", refuse)
    with pytest.raises(ModelRefused, match="no engine"):
        load(version_of(small_detector(batch="batch")), TENSORRT)


def test_without_a_folder_engines_are_built_in_the_session_that_answers(stand_in, version_of, small_detector):
    load(version_of(small_detector()), TENSORRT).close()
    assert (stand_in.built, len(stand_in.options)) == (1, 1)
