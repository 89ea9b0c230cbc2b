"""The requests of a call: read one after the other, and none lost by whoever stops waiting for it."""

import asyncio

import grpc
import pytest

from server_kit.requests import Requests


class Call:
    """A call whose requests come when they are sent; an error is one that ends it."""

    def __init__(self, *sent):
        self.sent = asyncio.Queue()
        for request in sent:
            self.sent.put_nowait(request)

    async def read(self):
        request = await self.sent.get()
        if isinstance(request, Exception):
            raise request
        return request


async def test_requests_come_in_order_and_end_with_the_call():
    requests = Requests(Call(b"one", b"two", grpc.aio.EOF))
    assert [request async for request in requests] == [b"one", b"two"]


async def test_what_a_read_brings_that_was_given_up_is_the_next_request():
    call = Call()
    requests = Requests(call)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await anext(requests)
    call.sent.put_nowait(b"late")
    assert await anext(requests) == b"late"


async def test_an_error_is_raised_where_it_is_waited_for_and_forgotten_where_it_is_not():
    complaints = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    with pytest.raises(ConnectionError):
        await anext(Requests(Call(ConnectionError())))
    call = Call()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await anext(Requests(call))
    call.sent.put_nowait(ConnectionError())
    while not call.sent.empty():
        await asyncio.sleep(0)
    await asyncio.sleep(0.01)
    assert not complaints


async def test_nothing_is_read_once_closed():
    requests = Requests(Call(b"never"))
    requests.close()
    assert [request async for request in requests] == []
