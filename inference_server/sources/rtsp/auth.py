"""Passwords: sent as Basic or, where the server knows it, as a Digest (RFC 7616) that does not tell them."""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from collections.abc import Callable, Sequence

_FIELD = re.compile(r'([a-z]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))', re.IGNORECASE)
# By how much they are wanted; a challenge without an algorithm means MD5.
_HASHES: dict[str, Callable[[bytes], str]] = {
    "SHA-256": lambda data: hashlib.sha256(data).hexdigest(),
    "MD5": lambda data: hashlib.md5(data, usedforsecurity=False).hexdigest(),
}


class Credentials:
    """Answers the challenges of one server, and remembers the last for the requests to come."""

    def __init__(self, user: str, password: str) -> None:
        self._user = user
        self._password = password
        self._digest: dict[str, str] | None = None
        self._basic = False
        self._count = 0

    def challenged(self, challenges: Sequence[str]) -> bool:
        """Take a refusal's challenges; whether to ask again makes sense."""
        digests = [_fields(text) for text in challenges if text.lower().startswith("digest ")]
        known = [digest for name in _HASHES for digest in digests if digest["algorithm"] == name]
        if known:
            again = self._digest is None or known[0].get("stale", "").lower() == "true"
            self._digest, self._count = known[0], 0
            return again
        again = not self._basic and any(text.lower().startswith("basic") for text in challenges)
        self._basic = self._basic or again
        return again

    def header(self, method: str, uri: str) -> dict[str, str]:
        """What a request carries; nothing before the first challenge."""
        if self._digest is not None:
            return {"Authorization": self._answer(self._digest, method, uri)}
        if self._basic:
            secret = base64.b64encode(f"{self._user}:{self._password}".encode()).decode()
            return {"Authorization": f"Basic {secret}"}
        return {}

    def _answer(self, digest: dict[str, str], method: str, uri: str) -> str:
        algorithm, realm, nonce = digest["algorithm"], digest.get("realm", ""), digest.get("nonce", "")
        proof = f"{self._user}:{realm}:{self._password}", f"{method}:{uri}"
        secret, request = (_HASHES[algorithm](text.encode()) for text in proof)
        fields = {"username": self._user, "realm": realm, "nonce": nonce, "uri": uri}
        fields |= {name: digest[name] for name in ("opaque",) if name in digest}
        between, bare = "", {"algorithm": algorithm} if digest["stated"] else {}
        if "auth" in re.split(r"[\s,]+", digest.get("qop", "")):
            self._count += 1
            count, fields["cnonce"] = f"{self._count:08x}", secrets.token_hex(8)
            between, bare = f"{count}:{fields['cnonce']}:auth:", bare | {"qop": "auth", "nc": count}
        fields["response"] = _HASHES[algorithm](f"{secret}:{nonce}:{between}{request}".encode())
        quoted = [f'{name}="{_quote(value)}"' for name, value in fields.items()]
        return "Digest " + ", ".join([*quoted, *(f"{name}={value}" for name, value in bare.items())])


def _fields(challenge: str) -> dict[str, str]:
    found = {name.lower(): re.sub(r"\\(.)", r"\1", quoted) or bare for name, quoted, bare in _FIELD.findall(challenge)}
    stated = found.get("algorithm", "")
    return found | {"algorithm": stated.upper() or "MD5", "stated": stated}


def _quote(value: str) -> str:
    return re.sub(r'(["\\])', r"\\\1", value)
