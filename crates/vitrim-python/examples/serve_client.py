"""A client of `vitrim serve` that needs no library but Python's own.

    vitrim serve --model my/deit --policy runs/my/policy
    python serve_client.py http://127.0.0.1:8000 photo.jpg another.png

It sends photos on one connection, asks for no more loss than it can use, waits when the server says so, and prints what the
answer cost.
"""

from __future__ import annotations

import http.client
import json
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

#: Statuses after which the same request may succeed: the queue is full, or the server loads or ends.
TRY_AGAIN = (429, 503)


class Client:
    """One connection to a server."""

    def __init__(self, url: str, token: str | None = None, timeout: float = 30.0) -> None:
        address = urlsplit(url)
        kind = http.client.HTTPSConnection if address.scheme == "https" else http.client.HTTPConnection
        self.connection = kind(address.netloc, timeout=timeout)
        self.headers = {"Authorization": f"Bearer {token}"} if token else {}

    def predict(self, encoded: bytes, tries: int = 3, **parameters: Any) -> dict[str, Any]:
        """Classifies an encoded image; `parameters` are those of `/predict`: top_k, max_drop, timeout_ms, ..."""
        for left in reversed(range(tries)):
            headers = {**self.headers, "Content-Type": "application/octet-stream"}
            self.connection.request("POST", f"/predict?{urlencode(parameters)}", encoded, headers)
            answer = self.connection.getresponse()
            body = json.loads(answer.read())
            if answer.status == 200:
                (image,) = body["images"]
                return dict(image, queue_ms=float(answer.headers["X-Queue-Time-Ms"]))
            if answer.status not in TRY_AGAIN or not left:
                raise RuntimeError(f"{answer.status}: {body['error']}")
            time.sleep(float(answer.headers.get("Retry-After", 1)))
        raise ValueError("tries must be at least 1")


def main(url: str, *paths: str) -> None:
    client = Client(url)
    for path in paths:
        answer = client.predict(Path(path).read_bytes(), top_k=1)
        best, point = answer["classes"][0], answer["operating_point"]
        name = best["name"] or f"class {best['class']}"
        print(f"{path}: {name}, {best['probability']:.0%}; {answer['gmacs']:.2f} GMACs at {point['name']}")


if __name__ == "__main__":
    main(*sys.argv[1:])
