import grpc
import pytest
from grpc.aio import AioRpcError, Metadata
from videoai import errors


def failure(code: grpc.StatusCode, details: str | None, **trailing: str) -> AioRpcError:
    metadata = Metadata(*((key.replace("_", "-"), value) for key, value in trailing.items()))
    return AioRpcError(code, Metadata(), metadata, details=details)


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
def test_every_status_has_its_error(code: grpc.StatusCode) -> None:
    error = errors.from_grpc(failure(code, "model_name: empty"))
    assert type(error).__name__.lower() == code.name.replace("_", "").lower()
    assert (error.code, error.details, str(error)) == (code, "model_name: empty", "model_name: empty")


def test_docstring_draws_the_whole_tree() -> None:
    assert errors.__doc__ is not None
    drawn = [line.split()[1] for line in errors.__doc__.splitlines() if line.startswith(("├── ", "└── "))]
    assert sorted(drawn) == sorted(kind.__name__ for kind in errors.BY_CODE.values())
    assert len(errors.BY_CODE) == len(errors.VideoAIError.__subclasses__())


def test_a_failure_without_message_says_its_status() -> None:
    assert str(errors.from_grpc(failure(grpc.StatusCode.UNAVAILABLE, None))) == "UNAVAILABLE"


def test_the_wait_that_a_server_asks_for_is_told() -> None:
    busy = failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "max-streams", grpc_retry_pushback_ms="1500")
    assert errors.from_grpc(busy).retry_after_seconds == 1.5
    assert errors.from_grpc(failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "")).retry_after_seconds is None


@pytest.mark.parametrize("value", ["-1", "", "soon", "1.5"])
def test_a_wait_that_is_none_is_not_told(value: str) -> None:
    busy = failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "", grpc_retry_pushback_ms=value)
    assert errors.from_grpc(busy).retry_after_seconds is None
