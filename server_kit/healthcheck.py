"""Ask a server whether it serves, for health checks: python -m server_kit.healthcheck ADDR [--service NAME].

Exit status 0 when the standard health service answers SERVING, 1 otherwise; the reason is on standard error.
"""

from __future__ import annotations

import sys
from typing import Any

import click
import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from server_kit.options import check_address

Response = health_pb2.HealthCheckResponse


def check(address: str, service: str, timeout_seconds: float) -> str:
    """Return the name of the status that `service` ("" for the whole server) has; raises grpc.RpcError."""
    # A proxy in the environment is for other hosts than the one that is asked here.
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)  # gets its methods when it is made
        response = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=timeout_seconds)
    return str(Response.ServingStatus.Name(response.status))


@click.command()
@click.argument("address", metavar="ADDR", callback=check_address)
@click.option("--service", default="", metavar="NAME", help="Service to ask about. [default: the whole server]")
@click.option("--timeout-seconds", type=click.FloatRange(min=0, min_open=True), default=3.0, show_default=True)
def main(address: str, service: str, timeout_seconds: float) -> None:
    """Exit with status 0 if the server at ADDR (host:port or unix:path) is serving, with 1 if not."""
    try:
        status = check(address, service, timeout_seconds)
    except grpc.RpcError as error:
        status = f"{error.code().name}: {error.details()}"
    if status != "SERVING":
        click.echo(f"{address}: {status}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
