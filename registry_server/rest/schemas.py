"""What parameters and bodies look like. The registry's own checks take them; the schemas describe what those take."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue, PlainValidator, WithJsonSchema

from registry_server.entry import (
    MAX_TEXT,
    MAX_VERSION,
    NAME,
    Status,
    check_digest,
    check_metadata,
    check_name,
    check_path,
    check_version,
    is_integer,
)
from registry_server.errors import InvalidField

PATH = r"^models(/(?!\.{1,2}(/|$))[^/\\\u0000]+)+$"

_WHOLE_NUMBER = re.compile(r"0|[1-9][0-9]{0,9}")
_REQUEST_KEY = re.compile(rf"[!-~]{{1,{MAX_TEXT}}}")


def _version(text: object) -> int:
    return check_version(_number(text))


def _version_or_next(value: object) -> int:
    if isinstance(value, float) and value.is_integer():  # 3.0 is a whole number to JSON
        value = int(value)
    return 0 if is_integer(value) and value == 0 else check_version(value)


def _expected_version(text: object) -> int:
    number = _number(text)
    if not is_integer(number) or number > MAX_VERSION:
        raise InvalidField("expected_production_version", "a version, or 0 for none", text)
    return number


def _request_key(text: object) -> str:
    if not isinstance(text, str) or not _REQUEST_KEY.fullmatch(text):
        raise InvalidField("Idempotency-Key", f"1 to {MAX_TEXT} visible ASCII characters", text)
    return text


def _number(text: object) -> object:
    """The whole number that is spelt; anything else as it is."""
    return int(text) if isinstance(text, str) and _WHOLE_NUMBER.fullmatch(text) else text


def _text(pattern: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "pattern": pattern})


def _whole(least: int) -> WithJsonSchema:
    return WithJsonSchema({"type": "integer", "minimum": least, "maximum": MAX_VERSION})


class Metadata(BaseModel):
    """What is said about a version. Other keys are kept as they are."""

    model_config = ConfigDict(extra="allow")

    description: str = ""
    metrics: dict[str, float] = Field(default_factory=dict, description="Numbers by name, in units of your own.")
    attributes: dict[str, JsonValue] = Field(
        default_factory=dict, description="Any values; the inference server reads the key `videoai`."
    )


ModelName = Annotated[str, PlainValidator(check_name), _text(f"^{NAME}$")]
OnlyModelName = Annotated[str | None, PlainValidator(check_name), _text(f"^{NAME}$")]
Version = Annotated[int, PlainValidator(_version), _whole(1)]
VersionOrNext = Annotated[int, PlainValidator(_version_or_next), _whole(0)]
ExpectedVersion = Annotated[int | None, PlainValidator(_expected_version), _whole(0)]
ArtifactPath = Annotated[str, PlainValidator(check_path), _text(PATH)]
Sha256 = Annotated[str, PlainValidator(check_digest), _text("^[0-9a-fA-F]{64}$")]
RequestKey = Annotated[str | None, PlainValidator(_request_key), _text(f"^{_REQUEST_KEY.pattern}$")]
CheckedMetadata = Annotated[dict[str, Any], PlainValidator(check_metadata, json_schema_input_type=Metadata)]


class NewModel(BaseModel):
    """A version to register."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "model_name": "yolov8n-coco",
                    "version": 3,
                    "path": "models/yolov8n-coco/v3/model.onnx",
                    "metadata": {"description": "Fine-tuned on custom dataset.", "metrics": {"accuracy": 0.83}},
                }
            ]
        },
    )

    model_name: ModelName
    version: VersionOrNext = Field(default=0, description="0 takes the next free one.")
    path: ArtifactPath = Field(description="Of the ONNX file, relative to the folder that holds models/.")
    metadata: CheckedMetadata = Field(default_factory=dict)
    sha256: Sha256 = Field(default_factory=str, description="Refuses the file if it has another digest.")


class TensorSpec(BaseModel):
    """One input or output."""

    name: str
    datatype: str = Field(description="As the Open Inference Protocol spells it.")
    shape: list[int] = Field(description="-1 where a dimension is dynamic.")


class ModelEntry(BaseModel):
    """One version of one model, as in registry.json; keys that a person put there are included."""

    model_config = ConfigDict(extra="allow")

    model_name: str
    version: int = Field(ge=1, le=MAX_VERSION)
    path: str
    status: Status
    creation_timestamp: str = Field(default="", description="RFC 3339.")
    activation_timestamp: str = Field(default="", description="RFC 3339; when a call last put it into production.")
    metadata: Metadata = Field(default_factory=Metadata)
    sha256: str = Field(default="", description="Of the file, or of all files, in lower-case hexadecimal digits.")
    size_bytes: int = Field(default=0, ge=0, description="Of the file, or of all files.")
    inputs: list[TensorSpec] = Field(default_factory=list)
    outputs: list[TensorSpec] = Field(default_factory=list)
    opset: int = Field(default=0, ge=0, description="Of ONNX's own operators; 0 if it is not known.")
    weights_files: list[str] = Field(default_factory=list, description="That hold weights beside the file at path.")
    request_id: str = Field(default="", description="The Idempotency-Key that it was registered with.")


class ModelList(BaseModel):
    """Versions in order of their names and numbers."""

    models: list[ModelEntry]


class Problem(BaseModel):
    """Why a request was refused, as in RFC 9457."""

    title: str = Field(description="The status in words.")
    status: int
    detail: str = Field(description="What is wrong, what was expected and what came.")
    field: str = Field(default="", description="The parameter or the part of the body that is wrong, where it is one.")
