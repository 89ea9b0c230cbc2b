"""What an inference server finds on its own machine, before it serves or beside one that does."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from videoai.cli.findings import Finding, Outcome

from inference_server.engine import examination
from inference_server.settings import Settings

TOPIC = "devices and decoders"
LEAST_FREE_BYTES = 2**30


def examine(settings: Settings) -> Iterator[Finding]:
    """Yield what is found out about ONNX Runtime, devices, decoders and folders. Changes nothing."""
    yield _runtime()
    yield _cpu()
    yield _cuda(settings.device)
    if settings.device.startswith("tensorrt"):
        yield _tensorrt(settings.device)
    yield _decoders(settings.decoders.codecs)
    yield _folder("state", settings.state_file.parent, "it would start with no model while the registry is away")
    if settings.max_cache_bytes:
        yield _folder("model cache", settings.cache_folder, "it could fetch no model that is not under --root")
    yield _folder("spool", settings.decoders.spool_folder, "videos whose index is at their end could not be taken")


def _finding(check: str, outcome: Outcome, found: str, advice: str = "") -> Finding:
    return Finding(TOPIC, check, outcome, found, advice)


def _runtime() -> Finding:
    packages = [f"{name} {version}" for name, version in examination.runtimes().items()]
    found = f"{' and '.join(packages)}, built for {', '.join(examination.providers())}"
    if len(packages) > 1:
        advice = (
            "they overwrite each other: uninstall all of them, then pip install --force-reinstall 'videoai[inference]'"
        )
        return _finding("ONNX Runtime", "failed", found, advice)
    return _finding("ONNX Runtime", "ok", found)


def _cpu() -> Finding:
    if reason := examination.trouble("cpu"):
        return _finding("cpu", "failed", reason, "reinstall: pip install --force-reinstall 'videoai[inference]'")
    return _finding("cpu", "ok", "a session asked for the CPU ran there")


def _cuda(device: str) -> Finding:
    """CUDA that does not work is a failure where it was asked for, worth a warning where there is a GPU, else fine."""
    asked = device.startswith(("cuda", "tensorrt"))
    wanted = device.replace("tensorrt", "cuda") if asked else "cuda"
    driver = examination.nvidia_driver()
    seen = f"driver for CUDA {driver.cuda}, {driver.devices} device(s)" if driver else "no NVIDIA driver"
    reason = examination.trouble(wanted)
    if not reason:
        return _finding(wanted, "ok", f"{seen}; a session asked for CUDA ran there")
    if asked:
        return _finding(wanted, "failed", f"{seen}; {reason}")
    if driver and driver.devices and device == "auto":
        return _finding(wanted, "warning", f"{seen}; {reason}", "until then --device auto takes the CPU")
    return _finding(wanted, "ok", f"{seen}; models run on the CPU here")


def _tensorrt(device: str) -> Finding:
    """TensorRT is looked at where it was asked for: nothing takes it of its own accord, and building takes seconds."""
    if reason := examination.trouble(device):
        return _finding(device, "failed", reason)
    return _finding(device, "ok", "a session asked for TensorRT ran there")


def _decoders(codecs: Iterable[str]) -> Finding:
    from inference_server.video import examination as decoders  # loads FFmpeg, which a serving process must not

    if missing := decoders.missing(codecs):
        advice = "this FFmpeg was built without them: pip install --force-reinstall av"
        return _finding("decoders", "warning", f"{decoders.version()}; missing: {', '.join(missing)}", advice)
    return _finding("decoders", "ok", f"{decoders.version()}; every codec that is taken")


def _folder(check: str, folder: Path, otherwise: str) -> Finding:
    """Whether a folder can be written, or made where it is not there yet."""
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        return _finding(
            check, "warning", f"{folder} cannot be written; {otherwise}", f"let user {os.geteuid()} write there"
        )
    free = shutil.disk_usage(nearest).free
    if free < LEAST_FREE_BYTES:
        return _finding(
            check, "warning", f"{folder}: {free / 1e6:.0f} MB are free", "make room, or name another folder"
        )
    return _finding(check, "ok", f"{folder}, {free / 1e9:.0f} GB free")
