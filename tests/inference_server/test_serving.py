"""One version answers at a time; the one before goes when nobody holds it any more."""

import asyncio

import pytest

from inference_server.errors import InvalidField, ModelNotReady, ModelNotServed
from inference_server.serving import ServedModel, ServedModels


@pytest.fixture
async def served():
    served = ServedModel("fake")
    yield served
    await served.close()


async def test_nothing_runs_at_first(served):
    served.last_error = "the file is missing"
    with pytest.raises(ModelNotReady, match="the file is missing"):
        served.lease()


async def test_a_swap_frees_the_old_version_when_its_last_lease_is_released(served, fake_model):
    old, new = fake_model(1), fake_model(2)
    served.swap(old)
    first, second = served.lease(), served.lease()
    served.swap(new)
    assert served.lease().running.model is new
    first.release()
    first.release()
    await asyncio.sleep(0)
    assert not old.closed
    second.release()
    await asyncio.wait_for(second.running.freed.wait(), 30)
    assert old.closed
    assert not new.closed
    assert served.swaps == 1
    new_lease = served.lease()
    new_lease.running.release()  # the lease that was taken above and dropped
    new_lease.release()


async def test_an_old_version_still_answers_who_holds_it(served, fake_model, frame):
    served.swap(fake_model(1))
    with served.lease() as running:
        served.swap(fake_model(2))
        assert (await running.batcher.submit(*frame(5))).found.scores[0] == 5


async def test_whoever_waits_for_a_successor_gets_the_newest(served, fake_model):
    served.swap(fake_model(1))
    with served.lease() as running:
        waiting = asyncio.create_task(served.successor(running))
        await asyncio.sleep(0)
        served.swap(fake_model(2))
        served.swap(fake_model(3))
        assert (await waiting).model.number == 3
        assert (await served.successor(running)).model.number == 3


async def test_unloading_leaves_nothing_that_answers(served, fake_model):
    model = fake_model(1)
    served.swap(model)
    running = served.running
    served.unload()
    await asyncio.wait_for(running.freed.wait(), 30)
    assert model.closed
    with pytest.raises(ModelNotReady):
        served.lease()


def test_names_given_are_the_only_ones_served():
    models = ServedModels(("b", "a"))
    assert [model.model_name for model in models] == ["a", "b"]
    assert models.announced("c") is None
    with pytest.raises(ModelNotServed, match="a, b"):
        models.find("c")
    with pytest.raises(InvalidField, match="model_name: expected"):
        models.find("")


def test_without_names_everything_announced_is_served():
    models = ServedModels()
    with pytest.raises(ModelNotServed, match="no model yet"):
        models.find("a")
    assert models.announced("a") is models.find("a") is models.find("")
