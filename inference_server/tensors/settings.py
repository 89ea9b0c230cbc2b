"""The protocol's log and trace settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from videoai.open_inference.v2 import open_inference_pb2 as pb

from inference_server.errors import InvalidField, NotSupported
from server_kit import logs

# Setting, and the level of what is written while it is on; a level is written only with all above it.
LEVELS: Mapping[str, str] = {"log_error": "error", "log_warning": "warning", "log_info": "info"}
VERBOSE = "log_verbose_level"
TRACE_OFF: Mapping[str, str] = {"trace_level": "OFF", "trace_rate": "1000", "trace_count": "-1", "log_frequency": "0"}


def log_settings(request: pb.LogSettingsRequest) -> pb.LogSettingsResponse:
    """Change what the request says, and tell how things are. Raises InvalidField, and changes nothing then."""
    now = _log_settings()
    for name, value in request.settings.items():
        if name not in now:
            raise InvalidField("settings", f"one of {', '.join(now)}, got {name[:50]!r}")
        now[name] = _read(name, value)
    if request.settings:
        logs.set_level(_level(now))
    settings = pb.LogSettingsResponse.SettingValue
    return pb.LogSettingsResponse(
        settings={
            name: settings(uint32_param=value) if name == VERBOSE else settings(bool_param=value)
            for name, value in _log_settings().items()
        }
    )


def trace_settings(request: pb.TraceSettingRequest) -> pb.TraceSettingResponse:
    """Tell that nothing is traced. Raises NotSupported where that is to be changed."""
    for name, value in request.settings.items():
        if value.value and list(value.value) != [TRACE_OFF.get(name)]:
            raise NotSupported(f"settings[{name[:50]!r}]: tracing is not supported")
    setting = pb.TraceSettingResponse.SettingValue
    return pb.TraceSettingResponse(settings={name: setting(value=[value]) for name, value in TRACE_OFF.items()})


def _log_settings() -> dict[str, Any]:
    written = logs.LEVELS[logs.LEVELS.index(logs.level()) :]
    return {**{name: level in written for name, level in LEVELS.items()}, VERBOSE: int("debug" in written)}


def _read(name: str, value: pb.LogSettingsRequest.SettingValue) -> bool | int:
    kind = "uint32_param" if name == VERBOSE else "bool_param"
    if value.WhichOneof("parameter_choice") != kind:
        raise InvalidField(f"settings[{name!r}]", f"{kind} to be set")
    found: bool | int = getattr(value, kind)
    return found


def _level(wanted: Mapping[str, Any]) -> str:
    """The least severe level that is wanted; errors are always written."""
    if wanted[VERBOSE]:
        return "debug"
    return next((LEVELS[name] for name in reversed([*LEVELS]) if wanted[name]), "error")
