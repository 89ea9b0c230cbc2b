"""What an inference server finds on its own machine: devices, proven by running on them, decoders, folders."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from inference_server import doctor, settings
from inference_server.engine import examination
from inference_server.engine.examination import Driver
from inference_server.video import DecoderSettings
from inference_server.video import examination as decoders
from inference_server.video.codecs import DEFAULT_CODECS

BROKEN = "device cuda:0: no session runs there (libcudnn.so.9 is missing)"


@pytest.fixture
def examine(tmp_path):
    def examine(device="auto", **values):
        chosen = settings.Settings(
            **{
                **dict.fromkeys(settings.Settings.__slots__),
                "device": device,
                "state_file": tmp_path / "state" / "inference-state.json",
                "cache_folder": tmp_path / "cache",
                "max_cache_bytes": 1,
                "decoders": DecoderSettings(spool_folder=tmp_path),
                **values,
            }
        )
        return {finding.check: finding for finding in doctor.examine(chosen)}

    return examine


@pytest.fixture
def cuda(monkeypatch):
    """A function that says what NVIDIA's driver and a session on CUDA are to be like."""

    def cuda(driver, trouble):
        really = examination.trouble
        monkeypatch.setattr(examination, "nvidia_driver", lambda: driver)
        monkeypatch.setattr(examination, "trouble", lambda device: really(device) if device == "cpu" else trouble)

    return cuda


def test_this_machine(examine, tmp_path):
    before = list(tmp_path.iterdir())
    found = examine("cpu")
    assert {finding.outcome for finding in found.values()} == {"ok"}
    assert found["cpu"].found == "a session asked for the CPU ran there"
    assert "CPUExecutionProvider" in found["ONNX Runtime"].found
    assert "PyAV" in found["decoders"].found
    assert list(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("device", "driver", "trouble", "outcome"),
    [
        ("auto", None, BROKEN, "ok"),
        ("auto", Driver("13.0", 1), BROKEN, "warning"),
        ("auto", Driver("13.0", 0), BROKEN, "ok"),
        ("cpu", Driver("13.0", 1), BROKEN, "ok"),
        ("cuda", None, BROKEN, "failed"),
        ("cuda:0", Driver("13.0", 1), BROKEN, "failed"),
        ("auto", Driver("13.0", 2), "", "ok"),
        ("cuda:0", Driver("13.0", 2), "", "ok"),
        ("tensorrt", None, BROKEN, "failed"),
        ("tensorrt:0", Driver("13.0", 2), "", "ok"),
    ],
)
def test_cuda(examine, cuda, device, driver, trouble, outcome):
    cuda(driver, trouble)
    found = examine(device)
    finding = found["cuda:0" if device.endswith(":0") else "cuda"]
    assert finding.outcome == outcome
    assert ("13.0" in finding.found) == (driver is not None)
    assert (BROKEN in finding.found) == (outcome in ("failed", "warning"))


@pytest.mark.parametrize(("trouble", "outcome"), [("libnvinfer.so.10 is missing", "failed"), ("", "ok")])
def test_tensorrt_is_looked_at_where_it_is_asked_for(examine, cuda, trouble, outcome):
    cuda(Driver("13.0", 1), trouble)
    assert not any(check.startswith("tensorrt") for check in examine("auto"))
    finding = examine("tensorrt:1")["tensorrt:1"]
    assert finding.outcome == outcome
    assert trouble in finding.found


def test_what_is_in_the_way_of_each_device(monkeypatch):
    assert examination.trouble("cpu") == ""
    monkeypatch.setattr(
        examination, "try_out", lambda _: (_ for _ in ()).throw(examination.SESSION_ERRORS[1]("broken"))
    )
    assert "broken" in examination.trouble("cpu")
    monkeypatch.setattr(examination.onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    assert "built without CUDA" in examination.trouble("cuda")


def test_two_runtimes_overwrite_each_other(examine, monkeypatch):
    assert len(examination.runtimes()) == 1
    monkeypatch.setattr(examination, "runtimes", lambda: {"onnxruntime": "1.23.0", "onnxruntime-gpu": "1.23.2"})
    finding = examine("cpu")["ONNX Runtime"]
    assert (finding.outcome, "onnxruntime 1.23.0 and onnxruntime-gpu 1.23.2" in finding.found) == ("failed", True)


def test_a_codec_that_ffmpeg_lacks(examine, monkeypatch):
    assert decoders.missing(DEFAULT_CODECS) == []
    assert decoders.missing(["h264", "no-such-codec"]) == ["no-such-codec"]
    monkeypatch.setattr(decoders, "missing", lambda _: ["no-such-codec"])
    finding = examine("cpu")["decoders"]
    assert (finding.outcome, "missing: no-such-codec" in finding.found) == ("warning", True)


def test_folders_that_cannot_be_used(examine, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    found = examine("cpu", cache_folder=tmp_path / "file" / "cache")
    assert (found["model cache"].outcome, found["state"].outcome) == ("warning", "ok")
    assert "model cache" not in examine("cpu", max_cache_bytes=0)
    monkeypatch.setattr(doctor, "LEAST_FREE_BYTES", 2**62)
    assert examine("cpu")["spool"].outcome == "warning"


def test_as_a_command(tmp_path):
    command = [sys.executable, "-m", "inference_server", "--root", str(tmp_path), "--device", "cpu", "doctor"]
    outcome = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False, timeout=100)
    assert (outcome.returncode, outcome.stderr) == (0, "")
    told = json.loads(outcome.stdout)
    assert told["healthy"]
    assert {finding["topic"] for finding in told["findings"]} == {doctor.TOPIC}
    assert Path(tmp_path, ".videoai").exists() is False
