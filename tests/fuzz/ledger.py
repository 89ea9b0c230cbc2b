"""Both sides' books: how the server says that calls ended, against what their callers saw.

A caller's gRPC can lose the status of a call that is refused while a message is on its way, and a call that it cancels
may have ended otherwise. For those the server's count, `videoai_calls_total`, is the only word there is.
"""

from __future__ import annotations

import urllib.request
from collections import Counter, defaultdict
from collections.abc import Mapping

from prometheus_client.parser import text_string_to_metric_families

FINISHED = "videoai_calls_total"
OURS = ("INTERNAL", "UNKNOWN")
"""What the server never answers of its own accord, but for a decoder that a video has killed."""

Counts = Mapping[str, Mapping[str, int]]


def scrape(address: str) -> Counts:
    """The server's count: calls by method and code."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=60) as response:
        text = response.read().decode()
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == FINISHED:
                found[sample.labels["method"]][sample.labels["code"]] = int(sample.value)
    return found


def between(before: Counts, after: Counts) -> dict[str, Counter[str]]:
    """What has been counted since."""
    return {method: Counter(after[method]) - Counter(before.get(method, {})) for method in after}


class Ledger:
    """What callers saw, by method and code; `hidden`: calls of which they cannot know how the server ended them."""

    def __init__(self) -> None:
        self.seen: dict[str, Counter[str]] = defaultdict(Counter)
        self.hidden: Counter[str] = Counter()

    def saw(self, method: str, code: str) -> None:
        """Note the end of a call; `code` is empty where it was lost or cancelled."""
        if code:
            self.seen[method][code] += 1
        else:
            self.hidden[method] += 1

    def differences(self, server: Counts) -> list[str]:
        """Where the books disagree by more than what is hidden, or hide what the server must not answer."""
        problems = []
        for method in sorted({*self.seen, *self.hidden}):
            counted, seen, hidden = server.get(method, {}), self.seen[method], self.hidden[method]
            for code in sorted({*counted, *seen}):
                least, most = seen[code], seen[code] + (0 if code in OURS else hidden)
                if not least <= counted.get(code, 0) <= most:
                    problems.append(
                        f"{method}: the server counts {counted.get(code, 0)} {code}, callers saw {seen[code]}"
                        f" and do not know of {hidden}"
                    )
        return problems
