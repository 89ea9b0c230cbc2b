"""What the registry shows to Prometheus, beside what every server shows."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

from registry_server.entry import Status
from registry_server.lineage import State

REVISION = Gauge("videoai_registry_revision", "Revision of the registry that is being served.")
MODELS = Gauge("videoai_registry_model_versions", "Registered versions, by status.", ["status"])
WATCHERS = Gauge("videoai_registry_watchers", "Live subscribers of production.")
DEGRADED = Gauge("videoai_registry_degraded", "1 while the registry file holds an edit that cannot be read.")
CHANGES = Counter(
    "videoai_registry_changes", "Changes asked for, by outcome: done, nothing, refused, failed.", ["outcome"]
)


def show(state: State) -> None:
    """Set the gauges that describe the registry's content."""
    REVISION.set(state.revision)
    for status in Status:
        MODELS.labels(status.value).set(state.catalog.counts.get(status, 0))
