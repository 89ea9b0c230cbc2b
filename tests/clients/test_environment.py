import click
import pytest
from videoai.environment import reject_unknown


@click.group()
@click.option("--root", envvar="VIDEOAI_ROOT")
@click.option("--listen", envvar=["VIDEOAI_REGISTRY_LISTEN", "VIDEOAI_REGISTRY_BIND"])
def program() -> None: ...


@program.command()
@click.option("--metrics", envvar="VIDEOAI_REGISTRY_METRICS")
@click.option("--plain")
def serve() -> None: ...


def reject(**environ: str) -> None:
    reject_unknown(program, ["VIDEOAI_REGISTRY_"], environ)


def test_known_names_pass() -> None:
    reject(
        VIDEOAI_ROOT="/data",
        VIDEOAI_REGISTRY_LISTEN="a",
        VIDEOAI_REGISTRY_BIND="a",
        VIDEOAI_REGISTRY_METRICS="b",
        VIDEOAI_OUTPUT="json",
        PATH="/bin",
        MY_VIDEOAI_THING="1",
    )


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("VIDEOAI_REGISTRY_LISTNE", "VIDEOAI_REGISTRY_LISTEN"),
        ("VIDEOAI_REGISTRY_METRIC", "VIDEOAI_REGISTRY_METRICS"),
        ("VIDEOAI_ROTO", "VIDEOAI_ROOT"),
        ("VIDEOAI_REGISTRI", "VIDEOAI_REGISTRY"),
        ("VIDEOAI_REGISTRY_PORT", "VIDEOAI_REGISTRY"),
    ],
)
def test_unknown_name_is_refused_with_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(click.UsageError, match=rf"unknown environment variable {name}, did you mean {nearest}\w*\?"):
        reject(**{name: ""})


def test_every_unknown_name_is_told() -> None:
    with pytest.raises(click.UsageError, match=r"VIDEOAI_A,.*VIDEOAI_B,"):
        reject(VIDEOAI_B="", VIDEOAI_A="")


def test_another_programs_prefix_is_left_alone() -> None:
    reject(VIDEOAI_INFERENCE_DEVISE="cpu")
    with pytest.raises(click.UsageError, match="VIDEOAI_INFERENCE_DEVISE"):
        reject_unknown(program, ["VIDEOAI_INFERENCE"], {"VIDEOAI_INFERENCE_DEVISE": "cpu"})


def test_what_kubernetes_sets_for_a_service_is_left_alone() -> None:
    reject(
        VIDEOAI_REGISTRY_SERVICE_HOST="10.0.0.1",
        VIDEOAI_REGISTRY_SERVICE_PORT="50051",
        VIDEOAI_REGISTRY_SERVICE_PORT_GRPC="50051",
        VIDEOAI_REGISTRY_PORT="tcp://10.0.0.1:50051",
        VIDEOAI_REGISTRY_PORT_50051_TCP="tcp://10.0.0.1:50051",
        VIDEOAI_REGISTRY_PORT_50051_TCP_ADDR="10.0.0.1",
    )
