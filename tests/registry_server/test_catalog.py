"""The catalog and its steps, without files, clocks or servers."""

from __future__ import annotations

import copy
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from registry_server import document, history, steps
from registry_server.catalog import Catalog, InvalidDocument
from registry_server.entry import Status, TensorSpec
from registry_server.errors import Archived, NothingToRollBack, RegistryError, RequestIdReused
from registry_server.steps import Artifact, Digest, Moment, Registration

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
FOUND = Artifact(
    Digest("ab" * 32, 7), (TensorSpec("images", "FP32", (-1, 3, 8, 8)),), (TensorSpec("boxes", "FP32", (1, 5)),)
)


class Found:
    """Artifacts of which each is what FOUND says."""

    def digest(self, path: str, weights_files: tuple[str, ...] = ()) -> Digest:
        return FOUND.digest

    def inspect(self, path: str) -> Artifact:
        return FOUND


def moment(revision: int = 2) -> Moment:
    return Moment(NOW, revision)


def entry(version: int = 1, status: str = "staging", **more: Any) -> dict[str, Any]:
    return {"model_name": "m", "version": version, "path": f"models/m/v{version}.onnx", "status": status, **more}


def catalog(*entries: dict[str, Any], **more: Any) -> Catalog:
    return Catalog.read({"models": list(entries), **more})


# What a person may have put anywhere: no key that means something to the registry.
junk_keys = st.text(min_size=1).map(lambda text: f"x {text}")
junk_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
junk = st.dictionaries(junk_keys, junk_values, max_size=3)


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    """A document with unknown keys at every level, its keys in any order."""

    def shuffled(values: dict[str, Any]) -> dict[str, Any]:
        return dict(draw(st.permutations(list(values.items()))))

    def one(version: int) -> dict[str, Any]:
        metadata = shuffled(
            {"description": "d", "metrics": {"a": 0.5}, "attributes": {"k": draw(junk_values.filter(is_small))}}
            | draw(junk)
        )
        status = "production" if version == 1 else "staging"
        return shuffled({**entry(version, status), "metadata": metadata, **draw(junk)})

    return shuffled({"models": [one(1), one(2), one(3)], **draw(junk)})


def is_small(value: Any) -> bool:
    """Attributes go out as doubles."""
    try:
        json.loads(json.dumps(value), parse_int=lambda text: 1 / (abs(float(text)) <= 1e300))
    except (ZeroDivisionError, OverflowError):
        return False
    return True


def ordered(value: Any) -> str:
    """Equal only for values whose keys are in the same order, too."""
    return json.dumps(value)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(documents())
def test_unknown_keys_and_key_order_survive_every_step(written: dict[str, Any]) -> None:
    before = copy.deepcopy(written)
    start = Catalog.read(document.parse(document.dump(written)))
    change = steps.activate(start, "m", 2, Found(), moment(2))
    change = steps.rollback(change.catalog, "m", Found(), moment(3))
    change = steps.archive(change.catalog, "m", 3)
    change = steps.update_metadata(change.catalog, "m", 3, {"description": "new"})
    change = steps.register(change.catalog, Registration("n", 1, "models/n.onnx", {}), Found(), moment(6))
    change = steps.delete(change.catalog, "n", 1)
    after = document.parse(document.dump(change.catalog.document))

    assert ordered(written) == ordered(before), "a step changed the document in place"
    assert list(after) == [*before, "history"]
    for key in before.keys() - {"models"}:
        assert ordered(after[key]) == ordered(before[key])
    ours = {"status", "activation_timestamp", "sha256", "size_bytes", "inputs", "outputs", "opset"}
    for old, new in zip(before["models"], after["models"], strict=True):
        assert [key for key in new if key in old] == list(old)
        assert new.keys() - old.keys() <= ours
        expected = {**old, "metadata": {**old["metadata"], **({"description": "new"} if old["version"] == 3 else {})}}
        assert {k: ordered(v) for k, v in new.items() if k not in ours} == {
            k: ordered(v) for k, v in expected.items() if k not in ours
        }


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(documents(), min_size=1, max_size=3))
def test_what_is_laid_out_in_pieces_is_laid_out_as_a_whole(several: list[dict[str, Any]]) -> None:
    layout = document.Layout()
    for one in several:
        first = Catalog.read(one).with_rest("empty", [])
        for now in (first, steps.activate(first, "m", 2, Found(), moment()).catalog, first.without("m", 2)):
            laid_out = layout.dump(now.head, {"models": now.entries, "history": now.history})
            assert laid_out == document.dump(now.document)
            assert laid_out.decode() == json.dumps(now.document, indent=2, ensure_ascii=False) + "\n"


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["register", "activate", "rollback", "archive", "delete"]), st.integers(1, 4)),
        max_size=30,
    )
)
def test_no_sequence_of_steps_breaks_the_rules(actions: list[tuple[str, int]]) -> None:
    now = Catalog.empty()
    for revision, (action, version) in enumerate(actions, start=2):
        try:
            if action == "register":
                wanted = Registration("m", version, f"models/m/v{version}.onnx", {})
                now = steps.register(now, wanted, Found(), moment(revision)).catalog
            elif action == "activate":
                now = steps.activate(now, "m", version, Found(), moment(revision)).catalog
            elif action == "rollback":
                now = steps.rollback(now, "m", Found(), moment(revision)).catalog
            else:
                now = getattr(steps, action)(now, "m", version).catalog
        except RegistryError:
            pass
        # Reading checks the whole: one in production, unique versions.
        again = Catalog.read(document.parse(document.dump(now.document)))
        assert again.document == now.document
        assert again.in_production.keys() == now.in_production.keys()
        assert again.content_digest == now.content_digest


@pytest.mark.parametrize(
    ("models", "where", "reason"),
    [
        ([entry(), entry()], ("models", 1, "version"), "twice"),
        ([entry(1, "production"), entry(2, "production")], ("models", 1, "status"), "two versions in production"),
        ([entry(0)], ("models", 0, "version"), "version: expected"),
        ([entry(2**31)], ("models", 0, "version"), "version: expected"),
        ([entry() | {"version": True}], ("models", 0, "version"), "version: expected"),
        ([entry() | {"version": 1.0}], ("models", 0, "version"), "version: expected"),
        ([entry() | {"model_name": "A"}], ("models", 0, "model_name"), "model_name: expected"),
        ([entry() | {"path": "models/../x"}], ("models", 0, "path"), "path: expected"),
        ([entry(1, "live")], ("models", 0, "status"), "staging, production, archived"),
        ([entry(creation_timestamp="2025-13-01T00:00:00Z")], ("models", 0, "creation_timestamp"), "date"),
        ([entry(creation_timestamp="2025-01-01")], ("models", 0, "creation_timestamp"), "date"),
        ([entry(creation_timestamp=None)], ("models", 0, "creation_timestamp"), "date"),
        ([entry(sha256="12")], ("models", 0, "sha256"), "hexadecimal"),
        ([entry(size_bytes=-1)], ("models", 0, "size_bytes"), ">= 0"),
        ([entry(inputs=[{"name": "x"}])], ("models", 0, "inputs", 0), "datatype"),
        ([entry(metadata=[])], ("models", 0, "metadata"), "object"),
        ([entry(metadata={"metrics": {"a": "b"}})], ("models", 0, "metadata", "metrics", "a"), "number"),
        ([entry(metadata={"attributes": {"a": 10**400}})], ("models", 0, "metadata", "attributes", "a"), "double"),
        ([{"version": 1}], ("models", 0), "missing"),
        ([7], ("models", 0), "object"),
        ({}, ("models",), "list"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(models: Any, where: tuple[Any, ...], reason: str) -> None:
    with pytest.raises(InvalidDocument, match=reason) as caught:
        Catalog.read({"models": models})
    assert caught.value.where == where


def test_a_timestamp_without_an_offset_is_utc() -> None:
    read = catalog(
        entry(creation_timestamp="2025-06-25T12:00:00.5"), entry(2, creation_timestamp="2025-06-25T14:00:00+02:00")
    )
    assert read.get("m", 1).creation_timestamp == datetime(2025, 6, 25, 12, 0, 0, 500_000, tzinfo=UTC)
    assert read.get("m", 2).creation_timestamp == datetime(2025, 6, 25, 12, tzinfo=UTC)


def test_a_step_without_effect_returns_the_same_catalog() -> None:
    start = catalog(entry(1, "production"), entry(2, "archived"))
    assert steps.activate(start, "m", 1, Found(), moment()).catalog is start
    assert steps.archive(start, "m", 2).catalog is start
    assert steps.update_metadata(start, "m", 1, {"description": "", "metrics": {}}).catalog is start


def test_activation_is_refused_before_the_file_is_read() -> None:
    class Unread:
        def digest(self, path: str, weights_files: tuple[str, ...] = ()) -> Digest:
            raise AssertionError("read")

        inspect = digest

    with pytest.raises(Archived):
        steps.activate(catalog(entry(1, "archived")), "m", 1, Unread(), moment())  # type: ignore[arg-type]


def test_history_keeps_the_newest_and_one_of_each_model() -> None:
    records = [history.activation("quiet", 0, 1, moment=NOW, revision=1)]
    records += [history.activation("busy", n, n + 1, moment=NOW, revision=n) for n in range(20)]
    kept = history.extend((), records, limit=5)
    assert [(record.model_name, record.version) for record in kept] == [
        ("quiet", 1),
        ("busy", 17),
        ("busy", 18),
        ("busy", 19),
        ("busy", 20),
    ]


def test_a_request_id_names_one_activation() -> None:
    first = steps.activate(catalog(entry(1), entry(2)), "m", 1, Found(), moment(5), request_id="r")
    second = steps.activate(first.catalog, "m", 2, Found(), moment(6))
    repeated = steps.activate(second.catalog, "m", 1, Found(), moment(7), request_id="r")
    assert repeated.catalog is second.catalog
    assert repeated.revision == 5
    with pytest.raises(RequestIdReused):
        steps.activate(second.catalog, "m", 2, Found(), moment(7), request_id="r")


def test_there_is_nothing_to_roll_back_to_at_first() -> None:
    with pytest.raises(NothingToRollBack):
        steps.rollback(catalog(entry(1, "production")), "m", Found(), moment())


def test_the_production_index_follows_every_change() -> None:
    change = steps.activate(catalog(entry(1, "production"), entry(2)), "m", 2, Found(), moment())
    assert change.catalog.production("m") is change.catalog.get("m", 2)
    assert change.demoted is not None
    assert change.demoted.status is Status.STAGING
