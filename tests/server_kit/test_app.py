"""A real server process, asked from outside."""

import contextlib
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from contextlib import contextmanager

import grpc
import psutil
import pytest
from google.protobuf import descriptor_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

PROGRAM = textwrap.dedent(
    """
    import asyncio, sys
    from contextlib import asynccontextmanager
    import grpc
    from server_kit import logs
    from server_kit.app import ServeOptions, run
    from server_kit.startup import StartupError

    class Missing(LookupError): pass
    class Rare(Missing): pass
    class Busy(Missing): retry_after_seconds = 1.5

    async def answer(request, context):
        match request:
            case b"rare": raise Rare("nothing by that name")
            case b"busy": raise Busy("all taken")
            case b"long": raise Rare("\\u20ac" * 10_000)
            case b"bug": raise RuntimeError("secret detail")
            case b"abort": await context.abort(grpc.StatusCode.DATA_LOSS, "said by the handler")
            case b"slow": await asyncio.sleep(1)
            case b"more": return await anext(REQUESTS, b"none")
            case b"fail": HEALTH.fail(StartupError("nothing to serve"))
        return request

    async def stream(request, context):
        yield b"first"
        raise Missing("gone in mid-stream")

    async def upload(requests, context):
        global REQUESTS
        REQUESTS = aiter(requests)
        await anext(REQUESTS)
        raise Missing("enough")
        yield

    async def refuse(requests, context):
        await anext(requests)
        reading = asyncio.create_task(requests.__anext__())
        await asyncio.sleep(0)
        reading.cancel()
        yield b"send more"
        await asyncio.sleep(0.02)
        raise Missing("enough")

    async def endless(request, context):
        yield b"first"
        await HEALTH.draining.wait()

    @asynccontextmanager
    async def setup(server, health):
        global HEALTH
        HEALTH = health
        if "broken" in sys.argv:
            raise StartupError("the disk is on fire")
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Service", {
            "Answer": grpc.unary_unary_rpc_method_handler(answer),
            "Stream": grpc.unary_stream_rpc_method_handler(stream),
            "Endless": grpc.unary_stream_rpc_method_handler(endless),
            "Upload": grpc.stream_stream_rpc_method_handler(upload),
            "Refuse": grpc.stream_stream_rpc_method_handler(refuse),
        }),))
        health.set(serving=True)
        try:
            yield
        finally:
            print("left setup", flush=True)

    logs.configure("info", "json")
    listen = tuple(a for a in sys.argv[1:] if ":" in a)
    codes = {Missing: grpc.StatusCode.NOT_FOUND}
    run(ServeOptions(listen, grace_seconds=20), services=["test.Service"], error_codes=codes, setup=setup)
    """
)


@contextmanager
def serving(*arguments):
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def server():
    with serving("127.0.0.1:0") as process:
        line = process.stdout.readline()
        assert line.startswith("listening on 127.0.0.1:")
        process.address = line.split()[-1]
        yield process


@pytest.fixture
def channel(server):
    with grpc.insecure_channel(server.address) as channel:
        yield channel


def call(channel, request, **options):
    return channel.unary_unary("/test.Service/Answer")(request, timeout=20, **options)


def test_errors_take_the_code_of_their_nearest_class(channel):
    with pytest.raises(grpc.RpcError) as raised:
        call(channel, b"rare")
    assert raised.value.code() is grpc.StatusCode.NOT_FOUND
    assert raised.value.details() == "nothing by that name"


def test_an_error_says_when_to_try_again(channel):
    with pytest.raises(grpc.RpcError) as raised:
        call(channel, b"busy")
    metadata = dict(raised.value.trailing_metadata())
    status = status_pb2.Status.FromString(metadata["grpc-status-details-bin"])
    assert (status.code, status.message) == (grpc.StatusCode.NOT_FOUND.value[0], "all taken")
    info = error_details_pb2.RetryInfo()
    assert status.details[0].Unpack(info)
    assert info.retry_delay.ToMilliseconds() == 1500
    assert metadata["grpc-retry-pushback-ms"] == "1500"


def test_an_error_that_knows_no_time_says_none(channel):
    with pytest.raises(grpc.RpcError) as raised:
        call(channel, b"rare")
    assert not {"grpc-status-details-bin", "grpc-retry-pushback-ms"} & set(dict(raised.value.trailing_metadata()))


def test_details_are_cut_to_what_a_status_can_hold(channel):
    with pytest.raises(grpc.RpcError) as raised:
        call(channel, b"long")
    assert raised.value.code() is grpc.StatusCode.NOT_FOUND
    assert raised.value.details().strip("\u20ac") == "…"


def test_an_error_in_mid_stream_ends_it_with_its_code(channel):
    responses = channel.unary_stream("/test.Service/Stream")(b"", timeout=20)
    assert next(responses) == b"first"
    with pytest.raises(grpc.RpcError) as raised:
        next(responses)
    assert raised.value.code() is grpc.StatusCode.NOT_FOUND


def test_requests_that_were_not_read_are_let_go(channel):
    """Otherwise grpc.aio would keep a part of every such call for ever."""
    with pytest.raises(grpc.RpcError) as refused:
        list(channel.stream_stream("/test.Service/Upload")(iter([b"first", b"second"])))
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    assert call(channel, b"more") == b"none"


def test_what_arrives_for_a_read_that_was_given_up_is_freed(server, channel):
    """Otherwise a caller whose upload is refused before its end would cost the server a message for ever."""

    def refused():
        sending = threading.Event()

        def requests():
            yield b"first"
            sending.wait()
            yield bytes(2**20)

        responses = channel.stream_stream("/test.Service/Refuse")(requests(), timeout=20)
        next(responses)
        sending.set()
        with pytest.raises(grpc.RpcError, match="enough"):
            next(responses)

    process = psutil.Process(server.pid)
    for _ in range(10):
        refused()
    before = process.memory_info().rss
    for _ in range(60):
        refused()
    assert process.memory_info().rss - before < 20 * 2**20


def test_a_bug_is_logged_and_kept_from_the_caller(server, channel):
    with pytest.raises(grpc.RpcError) as raised:
        call(channel, b"bug")
    assert raised.value.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in raised.value.details()
    reference = raised.value.details().split()[-1].rstrip(")")
    server.kill()
    _, log = server.communicate()
    assert "secret detail" in log
    assert reference in log


def test_bytes_that_are_no_request_are_a_bad_request(channel):
    for method in ("grpc.health.v1.Health/Check", "grpc.health.v1.Health/Watch"):
        with pytest.raises(grpc.RpcError) as raised:
            next(channel.unary_stream(f"/{method}")(b"\xff\xff", timeout=20))
        assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert raised.value.details().startswith("request: expected a message")
    requests = [reflection_pb2.ServerReflectionRequest(list_services="").SerializeToString(), b"\xff\xff"]
    ask = channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
    answers = ask(iter(requests), timeout=20)
    assert next(answers)
    with pytest.raises(grpc.RpcError) as raised:
        next(answers)
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_what_a_handler_says_itself_stands(channel):
    with pytest.raises(grpc.RpcError) as raised:
        call(channel, b"abort")
    assert (raised.value.code(), raised.value.details()) == (grpc.StatusCode.DATA_LOSS, "said by the handler")


def test_sigterm_lets_calls_finish_and_ends_endless_streams(server, channel):
    watches = [health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest()) for _ in range(3)]
    for watch in watches:
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
    endless = channel.unary_stream("/test.Service/Endless")(b"", timeout=60)
    assert next(endless) == b"first"
    watches.pop().cancel()
    slow = channel.unary_unary("/test.Service/Answer").future(b"slow", timeout=60)
    assert call(channel, b"sent after it") == b"sent after it"
    server.send_signal(signal.SIGTERM)
    for watch in watches:
        assert [message.status for message in watch] == [health_pb2.HealthCheckResponse.NOT_SERVING]
    assert list(endless) == []
    assert slow.result() == b"slow"
    assert server.wait(timeout=30) == 0
    assert "left setup" in server.stdout.read()


def test_health_answers_for_each_service(channel):
    stub = health_pb2_grpc.HealthStub(channel)
    for name in ("", "test.Service"):
        assert stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=20).status == 1
    with pytest.raises(grpc.RpcError) as raised:
        stub.Check(health_pb2.HealthCheckRequest(service="test.Other"), timeout=20)
    assert raised.value.code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_reflection_answers_and_describes_itself_under_both_names(channel, version):
    service = f"grpc.reflection.{version}.ServerReflection"
    ask = channel.stream_stream(
        f"/{service}/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    requests = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=service),
    ]
    listed, described = ask(iter(requests), timeout=20)
    names = {entry.name for entry in listed.list_services_response.service}
    assert {"test.Service", "grpc.health.v1.Health", service} <= names
    file = descriptor_pb2.FileDescriptorProto.FromString(described.file_descriptor_response.file_descriptor_proto[0])
    assert file.package == f"grpc.reflection.{version}"
    assert file.service[0].method[0].input_type == f".grpc.reflection.{version}.ServerReflectionRequest"


def test_it_listens_on_several_addresses(tmp_path):
    with serving(f"unix:{tmp_path}/s.sock", "127.0.0.1:0") as process:
        for _ in range(2):
            with grpc.insecure_channel(process.stdout.readline().split()[-1]) as channel:
                assert call(channel, b"hello", wait_for_ready=True) == b"hello"


def test_a_port_in_use_is_one_line_and_exit_status_1():
    with socket.create_server(("127.0.0.1", 0)) as taken, serving(f"127.0.0.1:{taken.getsockname()[1]}") as process:
        assert process.wait(timeout=30) == 1
        log = process.stderr.read()
    assert "--listen" in log
    assert "Traceback" not in log


def test_a_start_that_fails_says_why_and_exits_with_status_1():
    with serving("127.0.0.1:0", "broken") as process:
        assert process.wait(timeout=30) == 1
        assert "the disk is on fire" in process.stderr.read()


def test_a_server_that_finds_nothing_to_serve_ends_with_status_1(server, channel):
    with contextlib.suppress(grpc.RpcError):  # the answer may or may not get out before the server goes
        call(channel, b"fail")
    assert server.wait(timeout=30) == 1
    assert "nothing to serve" in server.stderr.read()
    assert "left setup" in server.stdout.read()
