"""Everything that can go wrong in the registry, as plain exceptions whose text is meant for the caller.

RegistryError
├── InvalidField               a field is malformed; names the field
│   └── NotAModel              the file that `path` names is not an ONNX model
├── NotFound
│   ├── ModelNotFound          no such name, or no such version of it
│   ├── NoProduction           the model has no version in production
│   └── ArtifactMissing        no such file to register
├── AlreadyRegistered          the name and version are taken
├── PlaceTaken                 a file lies already where the upload belongs
├── RequestIdReused            the request_id belongs to another change
├── ExpectationNotMet          another version is in production than the caller believes
├── ChangedMeanwhile           somebody else changed the registry while this change was being written
├── Refused                    the registry's state does not allow the change
│   ├── InProduction           a version in production can be neither archived nor deleted
│   ├── Archived               an archived version cannot be activated
│   ├── ArtifactChanged        the file's digest is not the expected one
│   ├── SeveralFiles           only a version of one file can be downloaded
│   ├── ArtifactUnusable       the file of a registered version is gone or no longer a model
│   ├── NothingToRollBack      no earlier production version to go back to
│   ├── UnknownInstance        a report from a replica that is not watching
│   └── RegistryFileInvalid    the registry file holds an edit that cannot be read; file, line, column
├── StorageUnavailable         the storage cannot be reached or written now
│   ├── CommitUncertain        the new state may be in place, but may not survive a power cut
│   └── StorageFull            no space or quota is left for a file
├── UploadTooLarge             the announced size is above the limit
├── TooManyUploads             the limit of concurrent uploads is reached
├── UploadStalled              nothing came for too long
├── DataDamaged                the bytes are not those that were announced or registered
└── TooManyWatchers            the subscriber limit is reached
"""

# ruff: noqa: N818 - each name says what happened.

from __future__ import annotations


class RegistryError(Exception):
    """Base of every error of the registry."""


class InvalidField(RegistryError):
    """A field of a request, or a key of the registry file, is not what it must be."""

    def __init__(self, field: str, expected: str, got: object = None) -> None:
        came = "" if got is None else f", got {_brief(got)}"
        super().__init__(f"{field}: expected {expected}{came}")
        self.field = field


class NotAModel(InvalidField):
    """The file is not an ONNX model."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__("path", f"an ONNX model at {path!r}, but {reason}")


class NotFound(RegistryError):
    """What was asked for does not exist."""


class ModelNotFound(NotFound):
    """No such model, or no such version of it."""

    def __init__(self, model_name: str, version: int | None = None) -> None:
        which = f"model {model_name!r}" if version is None else f"version {version} of model {model_name!r}"
        super().__init__(f"{which} is not registered")


class NoProduction(NotFound):
    """The model has no version in production."""

    def __init__(self, model_name: str) -> None:
        super().__init__(f"model {model_name!r} has no version in production")


class ArtifactMissing(NotFound):
    """There is no regular file at the path that was given."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"path: no file to register at {path!r}: {reason}")
        self.field = "path"


class AlreadyRegistered(RegistryError):
    """The name and version are taken."""

    def __init__(self, model_name: str, version: int) -> None:
        super().__init__(f"version {version} of model {model_name!r} is already registered")


class RequestIdReused(RegistryError):
    """The request_id belongs to a change with other parameters."""

    def __init__(self, request_id: str, change: str) -> None:
        super().__init__(f"request_id: {_brief(request_id)} was already used to {change}")


class ExpectationNotMet(RegistryError):
    """Another version is in production than the caller expected."""

    def __init__(self, model_name: str, expected: int, actual: int) -> None:
        super().__init__(
            f"expected_production_version: expected {_version(expected)} of model {model_name!r} in production, "
            f"found {_version(actual)}"
        )


class ChangedMeanwhile(RegistryError):
    """Somebody who takes no lock changed the registry, again and again, while a change was being written."""

    def __init__(self, file: str) -> None:
        super().__init__(f"{file} was edited while the change was being written; nothing was changed, try again")


class Refused(RegistryError):
    """The present state does not allow the change."""


class InProduction(Refused):
    """A version in production can be neither archived nor deleted."""

    def __init__(self, model_name: str, version: int, action: str) -> None:
        super().__init__(
            f"version {version} of model {model_name!r} is in production and cannot be {action}; activate another first"
        )


class Archived(Refused):
    """An archived version cannot be activated."""

    def __init__(self, model_name: str, version: int) -> None:
        super().__init__(f"version {version} of model {model_name!r} is archived and cannot be activated")


class ArtifactChanged(Refused):
    """The file is there, but not with the digest or the size that was expected."""

    def __init__(self, path: str, what: str, expected: object, actual: object) -> None:
        super().__init__(f"{what}: expected {expected} for {path!r}, the file on disk has {actual}")


class SeveralFiles(Refused):
    """The version has weights in files of their own."""

    def __init__(self, model_name: str, version: int) -> None:
        super().__init__(
            f"version {version} of model {model_name!r} keeps weights in files of their own and cannot be downloaded: "
            "export it as a single file, or share the folder"
        )


class ArtifactUnusable(Refused):
    """The file of a registered version is gone, or no longer a model."""

    def __init__(self, model_name: str, version: int, reason: str) -> None:
        super().__init__(f"version {version} of model {model_name!r} cannot be activated: {reason}")


class NothingToRollBack(Refused):
    """There is no earlier production version that could go back into production."""

    def __init__(self, model_name: str, reason: str) -> None:
        super().__init__(f"model {model_name!r} cannot be rolled back: {reason}")


class UnknownInstance(Refused):
    """A report came from a replica that is not watching the model; it should watch again and then repeat its report."""

    def __init__(self, instance_id: str, model_name: str) -> None:
        super().__init__(
            f"instance_id: no live watch of {_brief(instance_id)} follows model {model_name!r}; watch, then report"
        )


class RegistryFileInvalid(Refused):
    """The registry file cannot be read as a registry. `line` and `column` count from 1; 0 where there is no place."""

    def __init__(self, file: str, line: int, column: int, reason: str) -> None:
        where = f"{file}:{line}:{column}" if line else file
        super().__init__(f"{where}: {reason}")
        self.file, self.line, self.column, self.reason = file, line, column, reason


class StorageUnavailable(RegistryError):
    """The storage cannot be reached or written now; the state is as it was before."""


class CommitUncertain(StorageUnavailable):
    """The new state may be in place, but whether it survives a power cut is not known."""


class StorageFull(StorageUnavailable):
    """No space or quota is left for a file; nothing of it was kept."""


class PlaceTaken(RegistryError):
    """A file lies already where the upload belongs; it is never overwritten."""

    def __init__(self, path: str) -> None:
        super().__init__(f"version: expected one whose file does not exist yet, but there is {path!r}")


class UploadTooLarge(RegistryError):
    """The announced size is above the limit."""

    def __init__(self, limit: int, size: int) -> None:
        super().__init__(f"size_bytes: expected at most {limit}, the limit of this server, got {size}")


class TooManyUploads(RegistryError):
    """The limit of concurrent uploads is reached."""

    retry_after_seconds = 1.0

    def __init__(self, limit: int) -> None:
        super().__init__(f"too many uploads at a time: the limit is {limit}; try again later")


class UploadStalled(RegistryError):
    """Nothing came for too long."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"nothing came for {seconds:g} s; nothing was kept")


class DataDamaged(RegistryError):
    """The bytes are not those that were announced or registered."""

    def __init__(self, what: str, field: str, expected: object, actual: object) -> None:
        super().__init__(f"{field}: expected {expected} for {what}, got {actual}")


class TooManyWatchers(RegistryError):
    """The limit of subscribers is reached."""

    retry_after_seconds = 5.0

    def __init__(self, limit: int) -> None:
        super().__init__(f"too many watchers: the limit is {limit}")


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _version(version: int) -> str:
    return f"version {version}" if version else "no version"
