import click
import pytest
from click.testing import CliRunner

from inference_server import settings


@pytest.fixture
def device_of():
    """A function that reads a value of --device as the server would, or says why it does not."""

    @click.command()
    @settings.options
    def command(*, listen, metrics, log_level, log_format, **flags):
        click.echo(settings.settings(**flags).device)

    return lambda value: CliRunner().invoke(command, ["--device", value]).output.strip()


@pytest.mark.parametrize("value", ["auto", "cpu", "cuda", "cuda:1", "tensorrt", "tensorrt:0"])
def test_a_device(device_of, value):
    assert device_of(value) == value


@pytest.mark.parametrize("value", ["", "gpu", "cpu:0", "auto:0", "cuda:", "tensorrt:", "tensorrt:x", "tensorrt:-1"])
def test_a_device_that_there_is_not(device_of, value):
    assert f"expected auto, cuda[:N], tensorrt[:N] or cpu, got {value!r}" in device_of(value)
