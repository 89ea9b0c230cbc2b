"""The synchronous client of the registry server."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from videoai import requests
from videoai.registry.v1 import registry_pb2, registry_pb2_grpc
from videoai.rollout import Wait, follow
from videoai.sync import transfer
from videoai.sync.channel import Client
from videoai.sync.watch import Watch
from videoai.watching import Backoff, Follower

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager
    from os import PathLike

    from videoai.rollout import Verdict
    from videoai.watching import WatchEvent


class RegistryClient(Client):
    """The registry: which versions of which models exist, and which one is in production.

    Methods raise the errors of videoai.errors.
    """

    def __init__(self, address: str = "127.0.0.1:50051", *, timeout_seconds: float = 10.0) -> None:
        super().__init__(address, timeout_seconds=timeout_seconds)
        self._stub = registry_pb2_grpc.ModelRegistryServiceStub(self._channel)

    def register(
        self,
        model_name: str,
        path: str,
        *,
        version: int = 0,
        description: str = "",
        metrics: Mapping[str, float] | None = None,
        attributes: Mapping[str, Any] | None = None,
        sha256: str | None = None,
        request_id: str | None = None,
    ) -> registry_pb2.Model:
        """Add a version as staging. `path` is relative to the folder that holds models/; version 0 takes the next.

        `sha256`: 64 hexadecimal digits that the file must have. `request_id`: made up if not given; a repeated call
        with the same one returns the first result.
        """
        request = requests.register(
            model_name,
            path,
            version=version,
            description=description,
            metrics=metrics,
            attributes=attributes,
            sha256=sha256,
            request_id=request_id,
        )
        return self._call(self._stub.RegisterModel, request).model

    def get(self, model_name: str, version: int) -> registry_pb2.Model:
        """Return one version."""
        request = registry_pb2.GetModelRequest(model_name=model_name, version=version)
        return self._call(self._stub.GetModel, request).model

    def list(
        self, model_name: str | None = None, *, status: registry_pb2.ModelStatus.ValueType | None = None
    ) -> Iterator[registry_pb2.Model]:
        """Yield versions ordered by name, then version; all of them unless a name or a status is given."""
        page_token = ""
        while True:
            page = self._call(self._stub.ListModels, requests.list_page(model_name, status, page_token))
            yield from page.models
            page_token = page.next_page_token
            if not page_token:
                return

    def activate(
        self,
        model_name: str,
        version: int,
        *,
        expected_production_version: int | None = None,
        request_id: str | None = None,
        requested_by: str | None = None,
    ) -> registry_pb2.ActivateModelVersionResponse:
        """Put a version into production. Answers model, demoted (the one before, if any) and revision.

        `expected_production_version`: raise Aborted unless this version is in production now; 0 means none may be.
        `requested_by`: who asks, for the history.
        """
        request = requests.activate(
            model_name,
            version,
            expected_production_version=expected_production_version,
            request_id=request_id,
            requested_by=requested_by,
        )
        return self._call(self._stub.ActivateModelVersion, request)

    def rollback(self, model_name: str, *, requested_by: str | None = None) -> registry_pb2.RollbackProductionResponse:
        """Put the version back that was in production before. Answers as activate does."""
        request = registry_pb2.RollbackProductionRequest(model_name=model_name, requested_by=requested_by)
        return self._call(self._stub.RollbackProduction, request)

    def activations(self, model_name: str, *, limit: int = 0) -> Sequence[registry_pb2.Activation]:
        """Return the changes of production that are remembered, newest first; at most `limit` unless it is 0."""
        request = registry_pb2.ListActivationsRequest(model_name=model_name, limit=limit)
        return self._call(self._stub.ListActivations, request).activations

    def state(self) -> registry_pb2.GetRegistryStateResponse:
        """Return which state the registry serves, and why it refuses changes (`problem`) if it does."""
        return self._call(self._stub.GetRegistryState, registry_pb2.GetRegistryStateRequest())

    def archive(self, model_name: str, version: int) -> registry_pb2.Model:
        """Keep a version for the record only."""
        request = registry_pb2.ArchiveModelVersionRequest(model_name=model_name, version=version)
        return self._call(self._stub.ArchiveModelVersion, request).model

    def update_metadata(
        self,
        model_name: str,
        version: int,
        *,
        description: str | None = None,
        metrics: Mapping[str, float] | None = None,
        attributes: Mapping[str, Any] | None = None,
    ) -> registry_pb2.Model:
        """Replace the parts of a version's metadata that are given."""
        request = requests.update_metadata(
            model_name, version, description=description, metrics=metrics, attributes=attributes
        )
        return self._call(self._stub.UpdateModelMetadata, request).model

    def delete(self, model_name: str, version: int) -> None:
        """Remove a version from the registry; its file stays."""
        request = registry_pb2.DeleteModelVersionRequest(model_name=model_name, version=version)
        self._call(self._stub.DeleteModelVersion, request)

    def production(self, model_name: str) -> registry_pb2.Model:
        """Return the version in production; NotFound if none is."""
        request = registry_pb2.GetProductionModelRequest(model_name=model_name)
        return self._call(self._stub.GetProductionModel, request).model

    def rollout(self, model_name: str) -> registry_pb2.GetRolloutResponse:
        """Return what each live replica has made of a model."""
        return self._call(self._stub.GetRollout, registry_pb2.GetRolloutRequest(model_name=model_name))

    def wait_for_rollout(
        self,
        model_name: str,
        version: int,
        *,
        revision: int = 0,
        replicas: int = 0,
        timeout_seconds: float = 300.0,
        interval_seconds: float = 0.25,
        on_change: Callable[[Verdict], None] | None = None,
    ) -> Verdict:
        """Wait until every live replica has applied `version`, activated at `revision`; look at `.outcome`.

        Ends early if one rejects it or another version goes into production; when the time is over the outcome is
        WAITING. `revision`: videoai.rollout.revision_of(what activate or rollback answered); 0 counts any report on
        the version. `replicas`: at least so many must have applied it. `on_change` is called with each verdict that
        shows a replica's progress.
        """
        wait = Wait(
            version,
            revision,
            replicas=replicas,
            timeout_seconds=timeout_seconds,
            interval_seconds=interval_seconds,
            on_change=on_change,
        )
        return follow(partial(self.rollout, model_name), wait)

    def report(
        self,
        instance_id: str,
        model_name: str,
        version: int,
        *,
        revision: int,
        state: registry_pb2.ModelState.ValueType,
        running_version: int = 0,
        error: str = "",
    ) -> None:
        """Tell the registry how far this replica has come with a version that the watch announced."""
        request = requests.report(
            instance_id,
            model_name,
            version,
            revision=revision,
            state=state,
            running_version=running_version,
            error=error,
        )
        self._call(self._stub.ReportModelState, request)

    def upload(
        self,
        file: str | PathLike[str],
        model_name: str,
        *,
        progress: Callable[[int, int], None] | None = None,
        **notes: Any,
    ) -> registry_pb2.Model:
        """Send a model file and register it as staging. `notes`: version, description, metrics, attributes, request_id.

        `progress` is called with the bytes sent and the bytes of all. There is no time limit.
        """
        header = requests.upload(model_name, **notes)
        return transfer.upload(self._stub, header, file, progress)

    def download(
        self,
        model_name: str,
        version: int,
        file: str | PathLike[str],
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> registry_pb2.Model:
        """Write a version's file to `file`, which appears whole and with the registered sha256, or not at all.

        If the registry goes away in between, the download goes on where it broke off. `progress`: as for upload.
        """
        request = registry_pb2.DownloadModelRequest(model_name=model_name, version=version)
        return transfer.download(self._stub, request, file, progress, self._closed)

    def read(
        self, model_name: str, version: int, *, offset_bytes: int = 0
    ) -> AbstractContextManager[tuple[registry_pb2.Model, Iterator[bytes]]]:
        """Give the version, with the sha256 and size of its file, and the file's bytes from `offset_bytes` on.

        For callers who keep them elsewhere than `download` does. Only what ended without an error is whole.
        """
        request = registry_pb2.DownloadModelRequest(model_name=model_name, version=version, offset_bytes=offset_bytes)
        return transfer.read(self._stub, request)

    def watch(
        self,
        model_names: Sequence[str] = (),
        *,
        instance_id: str = "",
        silence_seconds: float = 45.0,
        backoff: Backoff = Backoff(),  # noqa: B008 - immutable
    ) -> Iterator[WatchEvent]:
        """Yield Activated, Cleared, Synced and Disconnected until the client is closed; no names follow all models.

        The state first, then Synced, then each change. A lost connection, or one silent for `silence_seconds`, is told
        as Disconnected and made again after a pause; what changed meanwhile follows, then Synced. An event without
        `reset` that says nothing new is left out. Raises only where trying again will not help: InvalidArgument,
        Unimplemented, PermissionDenied, Unauthenticated.
        """
        follower = Follower(model_names, instance_id)
        method = self._stub.WatchProduction
        watch = Watch(method, follower, silence_seconds=silence_seconds, backoff=backoff, closed=self._closed)
        return watch.events()
