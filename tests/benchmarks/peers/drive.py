"""Load on one server of the Open Inference Protocol: the same program, in one environment, for every server.

    python drive.py ADDRESS MODEL [--clients N] [--seconds S] [--shared-memory] [--token T]

Each client is a thread with a `tritonclient.grpc` connection of its own that asks again as soon as it is answered. One
line of JSON on standard output: requests per second and the median time of a request in milliseconds.
"""

from __future__ import annotations

import argparse
import json
import threading
from statistics import median
from time import perf_counter

import numpy as np
import tritonclient.grpc as grpc
from tritonclient.utils import shared_memory

SHAPE = (1, 640, 640, 3)
WARM_UP = 10


class Client:
    """One connection that sends one picture again and again."""

    def __init__(self, address: str, model: str, number: int, *, share: bool, headers: dict[str, str]) -> None:
        self._client = grpc.InferenceServerClient(address)
        self._model = model
        self._headers = headers
        self._region = f"bench-{number}" if share else ""
        self._input = grpc.InferInput("frames", SHAPE, "UINT8")
        picture = np.random.default_rng(number).integers(0, 256, SHAPE, np.uint8)
        if share:
            self._share(picture)
        else:
            self._input.set_data_from_numpy(picture)
        self.milliseconds: list[float] = []

    def ask(self) -> None:
        start = perf_counter()
        answer = self._client.infer(self._model, [self._input]).as_numpy("means")
        self.milliseconds.append(1000 * (perf_counter() - start))
        assert answer.shape == (1, 8), answer.shape

    def close(self) -> None:
        if self._region:
            self._client.unregister_system_shared_memory(self._region, headers=self._headers)
            shared_memory.destroy_shared_memory_region(self._handle)
        self._client.close()

    def _share(self, picture: np.ndarray) -> None:
        key = f"/videoai-{self._region}"
        self._handle = shared_memory.create_shared_memory_region(self._region, key, picture.nbytes)
        shared_memory.set_shared_memory_region(self._handle, [picture])
        self._client.register_system_shared_memory(self._region, key, picture.nbytes, headers=self._headers)
        self._input.set_shared_memory(self._region, picture.nbytes)


def work(client: Client, end: float) -> None:
    while perf_counter() < end:
        client.ask()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("address")
    parser.add_argument("model")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--shared-memory", action="store_true")
    parser.add_argument("--token", help="What pytriton asks of those who register memory.")
    given = parser.parse_args()
    headers = {"triton-grpc-protocol-triton-access-token": given.token} if given.token else {}
    share = given.shared_memory
    clients = [Client(given.address, given.model, n, share=share, headers=headers) for n in range(given.clients)]
    for client in clients:
        for _ in range(WARM_UP):
            client.ask()
        client.milliseconds.clear()
    start = perf_counter()
    threads = [threading.Thread(target=work, args=(client, start + given.seconds)) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    taken = perf_counter() - start
    times = [time for client in clients for time in client.milliseconds]
    for client in clients:
        client.close()
    print(json.dumps({"requests_per_second": len(times) / taken, "p50_ms": median(times)}))


if __name__ == "__main__":
    main()
