"""Tools that know nothing of this product find their way by reflection alone."""

import json
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

SCRIPTS = Path(sysconfig.get_path("scripts"))
REGISTRY = "videoai.registry.v1.ModelRegistryService"
INFERENCE = "videoai.inference.v1.InferenceService"


def tool(name):
    path = shutil.which(name, path=str(SCRIPTS))
    assert path, f"{name} is not installed beside {SCRIPTS}"
    return path


def grpcurl(address, *arguments, data=None):
    flags = ["-plaintext"] + (["-d", json.dumps(data)] if data is not None else [])
    return subprocess.run(
        [tool("grpcurl"), *flags, address, *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def buf_curl(address, method, data):
    url = f"http://{address}/{method}"
    return subprocess.run(
        [tool("buf"), "curl", "--protocol", "grpc", "--http2-prior-knowledge", "-d", json.dumps(data), url],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def addresses(serving_v1_shared):
    pair = serving_v1_shared
    return {REGISTRY: pair.registry_address, INFERENCE: pair.inference_process.address}


@pytest.mark.parametrize("service", [REGISTRY, INFERENCE])
def test_grpcurl_lists_and_describes_everything(addresses, service):
    listed = grpcurl(addresses[service], "list")
    assert listed.returncode == 0, listed.stderr
    services = listed.stdout.split()
    assert service in services
    for name in services:
        described = grpcurl(addresses[service], "describe", name)
        assert described.returncode == 0, described.stderr
        assert f"{name} is a service" in described.stdout
    messages = grpcurl(
        addresses[service],
        "describe",
        f".{service.rpartition('.')[0]}.{'Model' if service == REGISTRY else 'FrameResult'}",
    )
    assert "model_name" in messages.stdout


def test_grpcurl_calls_both_services(addresses):
    answer = grpcurl(addresses[REGISTRY], f"{REGISTRY}/GetProductionModel", data={"model_name": "shapes"})
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout)["model"]["status"] == "MODEL_STATUS_PRODUCTION"
    answer = grpcurl(addresses[INFERENCE], f"{INFERENCE}/GetServingState", data={})
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout)["models"][0]["running_version"] == 1


def test_grpcurl_sees_the_state_at_once_when_it_watches(addresses):
    """The first messages of a watch come without waiting; the deadline ends the call."""
    watch = subprocess.run(
        [
            tool("grpcurl"),
            "-plaintext",
            "-max-time",
            "2",
            "-d",
            "{}",
            addresses[REGISTRY],
            f"{REGISTRY}/WatchProduction",
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert '"model_name": "shapes"' in watch.stdout
    assert '"synced"' in watch.stdout


@pytest.mark.parametrize("service", ["", REGISTRY, INFERENCE])
def test_the_standard_health_check_answers(addresses, service):
    for address in addresses.values():
        answer = grpcurl(address, "grpc.health.v1.Health/Check", data={"service": service})
        served_here = not service or addresses[service] == address
        assert (answer.returncode == 0) is served_here
        if served_here:
            assert json.loads(answer.stdout) == {"status": "SERVING"}


def test_grpcurl_shows_errors_as_they_are_meant(addresses):
    answer = grpcurl(addresses[REGISTRY], f"{REGISTRY}/GetModel", data={"model_name": "shapes", "version": 99})
    assert answer.returncode != 0
    assert "Code: NotFound" in answer.stderr


def test_buf_curl_calls_both_services(addresses):
    answer = buf_curl(addresses[REGISTRY], f"{REGISTRY}/ListModels", {})
    assert answer.returncode == 0, answer.stderr
    assert [model["modelName"] for model in json.loads(answer.stdout)["models"]] == ["shapes"]
    answer = buf_curl(addresses[INFERENCE], f"{INFERENCE}/GetServingState", {})
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout)["registryConnected"] is True
