"""Load on an HTTP server of this machine: open loop (Poisson arrivals) or closed loop.

An open loop sends each request at its arrival time, whatever became of the earlier ones. Latency is counted from the
intended arrival, so that neither a slow server nor a slow client hides waiting. Requests are whole HTTP/1.1 messages,
made before the load starts; answers are parsed by httptools and looked at after it has ended: the client has to be
light, since it shares the cores with the server. `run` returns what it took of one core.
"""

from __future__ import annotations

import asyncio
import gc
import json
import time
from dataclasses import dataclass, field

import httptools
import numpy as np

#: Statuses that no server sent.
BROKEN, UNREACHABLE, UNANSWERED = 0, -1, -2
#: Connections of an open loop; a request beyond them waits for one, and its wait counts as latency.
CONNECTIONS = 2000
#: Seconds that are waited for answers after the last arrival.
PATIENCE = 30.0


def message(port, path, body, headers=(), method="POST"):
    """A request as bytes."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{port}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@dataclass
class Answer:
    """What became of one request; times in seconds since the load began, `due` the intended arrival."""

    key: int
    due: float
    sent: float = 0.0
    done: float = 0.0
    status: int = UNANSWERED
    headers: dict = field(default_factory=dict)
    body: bytes = b""

    def json(self):
        return json.loads(self.body)


class Connection(asyncio.Protocol):
    """One connection: a request at a time."""

    def __init__(self, load):
        self.load, self.answer, self.payload, self.fresh, self.closing = load, None, b"", True, False

    def connection_made(self, transport):
        self.transport = transport
        self.parser = httptools.HttpResponseParser(self)

    def send(self, answer, payload):
        self.answer, self.payload = answer, payload
        answer.sent = self.load.now()
        self.transport.write(payload)

    def data_received(self, data):
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self.transport.abort()

    def on_header(self, name, value):
        if self.answer is not None:
            self.answer.headers[name.decode().lower()] = value.decode()

    def on_body(self, body):
        if self.answer is not None:
            self.answer.body += body

    def on_message_complete(self):
        answer, self.answer = self.answer, None
        if answer is None:
            return
        answer.status = self.parser.get_status_code()
        self.closing = not self.parser.should_keep_alive()
        self.fresh = False
        self.parser = httptools.HttpResponseParser(self)
        self.load.finished(answer)
        if self.closing:
            self.transport.close()
        else:
            self.load.idle(self)

    def connection_lost(self, error):
        answer, self.answer = self.answer, None
        self.load.lost(self, answer)


class Load:
    """Sends requests to `port` and keeps the answers.

    A request that a kept connection loses before the first byte of an answer goes once more on a new connection, as every
    HTTP client does it: the server may have closed the connection while the request was on its way.
    """

    def __init__(self, port, connections=CONNECTIONS):
        self.port, self.limit = port, connections
        self.free, self.waiting, self.answers, self.opened = [], [], [], 0
        self.again = None

    def now(self):
        return time.perf_counter() - self.start

    async def begin(self):
        self.loop = asyncio.get_running_loop()
        self.start = time.perf_counter()  # not the loop's time, which is good to a millisecond
        self.outstanding = 0
        self.calm = asyncio.Event()

    def submit(self, key, payload, due):
        answer = Answer(key, due)
        self.answers.append(answer)
        self.outstanding += 1
        self.dispatch(answer, payload)

    def dispatch(self, answer, payload):
        if self.free:
            self.free.pop().send(answer, payload)
        elif self.opened < self.limit:
            self.opened += 1
            self.loop.create_task(self.open(answer, payload))
        else:
            self.waiting.append((answer, payload))

    async def open(self, answer, payload):
        try:
            _, connection = await self.loop.create_connection(lambda: Connection(self), "127.0.0.1", self.port)
        except OSError:
            self.opened -= 1
            answer.status = UNREACHABLE
            self.finished(answer)
        else:
            connection.send(answer, payload)

    def idle(self, connection):
        if self.waiting:
            connection.send(*self.waiting.pop(0))
        else:
            self.free.append(connection)

    def lost(self, connection, answer):
        self.opened -= 1
        if connection in self.free:
            self.free.remove(connection)
        if answer is not None and not connection.fresh and not answer.headers:
            self.opened += 1
            self.loop.create_task(self.open(answer, connection.payload))
        elif answer is not None:
            answer.status = BROKEN
            self.finished(answer)
        elif self.waiting:
            self.dispatch(*self.waiting.pop(0))

    def finished(self, answer):
        answer.done = self.now()
        self.outstanding -= 1
        if self.outstanding == 0:
            self.calm.set()
        if self.again is not None:
            self.again()

    async def settle(self):
        """Waits for the answers that are still due, then closes the connections."""
        if self.outstanding:
            self.calm.clear()
            try:
                await asyncio.wait_for(self.calm.wait(), PATIENCE)
            except asyncio.TimeoutError:
                pass
        for connection in self.free:
            connection.transport.close()

    async def open_loop(self, requests, arrivals):
        """Sends `requests(i)`, a (key, payload), at `arrivals[i]` seconds; returns the answers."""
        await self.begin()
        for i, due in enumerate(arrivals):
            # The event loop's timers are good to a millisecond; what they are late counts as latency.
            while (early := due - self.now()) > 0:
                await asyncio.sleep(early)
            self.submit(*requests(i), due)
        await self.settle()
        return self.answers

    async def closed_loop(self, requests, concurrency, seconds=None, count=None):
        """Keeps `concurrency` requests in flight for so many seconds, or until `count` are sent; returns the answers."""
        await self.begin()
        sent = 0

        def again():
            nonlocal sent
            if (seconds is None or self.now() < seconds) and (count is None or sent < count):
                sent += 1
                self.submit(*requests(sent - 1), self.now())

        self.again = lambda: self.loop.call_soon(again)
        for _ in range(concurrency):
            again()
        while (seconds is None or self.now() < seconds) and (count is None or sent < count):
            await asyncio.sleep(0.01)
        self.again = None
        await self.settle()
        return self.answers


def poisson(rate, seconds, seed=0, start=0.0):
    """Arrival times of a Poisson process of `rate` per second, in seconds from `start`."""
    random = np.random.default_rng(seed)
    times = start + np.cumsum(random.exponential(1.0 / rate, int(rate * seconds * 1.5) + 50))
    return times[times < start + seconds].tolist()


def run(coroutine):
    """Runs a load on uvloop without garbage collection; returns its answers and the client's share of one core."""
    import uvloop

    gc.collect()
    gc.disable()
    wall, cpu = time.perf_counter(), time.process_time()
    try:
        answers = uvloop.run(coroutine)
    finally:
        gc.enable()
    return answers, (time.process_time() - cpu) / (time.perf_counter() - wall)


def summary(answers, begin, end, client_share):
    """Figures of the requests that were due, and of the answers that came, from `begin` to `end` seconds.

    `goodput` counts the answers of status 200 that came in that time. Times are in ms, from the intended arrival.
    """
    due = [answer for answer in answers if begin <= answer.due < end]
    good = [answer for answer in due if answer.status == 200]
    refused = [answer for answer in due if answer.status == 429]
    statuses = {}
    for answer in due:
        statuses[answer.status] = statuses.get(answer.status, 0) + 1
    came = sum(answer.status == 200 and begin <= answer.done < end for answer in answers)
    return {
        "offered_per_s": len(due) / (end - begin),
        "goodput_per_s": came / (end - begin),
        "statuses": {str(status): count for status, count in sorted(statuses.items())},
        "latency_ms": quantiles([answer.done - answer.due for answer in good]),
        "refusal_ms": quantiles([answer.done - answer.due for answer in refused]),
        "late_sends_ms": quantiles([answer.sent - answer.due for answer in due if answer.sent]),
        "client_share_of_a_core": client_share,
    }


def quantiles(seconds):
    """p50, p90, p99 and the largest, in ms; `None` without values."""
    if not seconds:
        return None
    p50, p90, p99 = (np.percentile(seconds, [50, 90, 99]) * 1e3).tolist()
    return {"p50": p50, "p90": p90, "p99": p99, "max": max(seconds) * 1e3, "count": len(seconds)}
