#!/usr/bin/env python3
"""Serves random requests for a long time, and prints the slope of the server's memory.

    python3 scripts/serve_soak.py --model tiny=my/deit --model other=my/vit --seconds 3600 --out soak.jsonl

Sizes (16 to 1,500 pixels a side), formats (JPEG, PNG, WebP, GIF, BMP, TIFF), routes (one image, many, pixels, embeddings),
models, operating points and counts of images are random; some images are damaged, some requests allow little time, and some
clients vanish. Every answer is counted by its status; a 5xx other than 503 and 504, or a broken connection, is a failure. Memory is sampled every
few seconds; the first fifth of the samples, in which buffers grow to their size, does not count for the slope.
"""

import argparse
import asyncio
import base64
import collections
import io
import json
import os
import sys
import time

import environment

LIGHT = ["numpy", "pillow", "httptools", "uvloop"]
FORMATS = ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"]
#: Seconds between samples of the memory.
SAMPLE = 2.0


def main():
    args = arguments()
    environment.enter(args.venv, LIGHT)
    import serve_process

    port = serve_process.free_port()
    command = [args.vitrim, "serve", "--port", port, "--grpc-port", serve_process.free_port(), *args.serve.split()]
    for model in args.model:
        command += ["--model", model]
    for policy in args.policy:
        command += ["--policy", policy]
    with serve_process.Server(command, port) as server:
        samples, statuses, failures = soak(args, server)
        code = server.stop()
    report(args, samples, statuses, failures, code)
    if failures or code != 0:
        sys.exit(1)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", action="append", required=True, help="NAME=FOLDER, repeatable")
    parser.add_argument("--policy", action="append", default=[], help="NAME=FOLDER, repeatable")
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--requests", type=int, default=1_000_000, help="ends after so many, if they come first")
    parser.add_argument("--in-flight", type=int, default=16)
    parser.add_argument("--images", type=int, default=400, help="distinct images that are made beforehand")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--serve", default="", help="more options for `vitrim serve`, in one word")
    parser.add_argument("--out", help="file for the samples, JSON lines")
    parser.add_argument("--venv", default=".peers", help="virtual environment of this script")
    target = os.environ.get("CARGO_TARGET_DIR", "target")
    parser.add_argument("--vitrim", default=f"{target}/release/vitrim", help="our binary")
    return parser.parse_args()


def images(count, random):
    """Encoded images of random sizes and formats, smooth enough to be small; every tenth is damaged."""
    import numpy as np
    from PIL import Image

    made = []
    for i in range(count):
        width, height = (int(side) for side in np.exp(random.uniform(np.log(16), np.log(1500), 2)))
        coarse = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((width, height))
        file = io.BytesIO()
        image.save(file, FORMATS[i % len(FORMATS)])
        encoded = file.getvalue()
        made.append(encoded[: len(encoded) // 3] if i % 10 == 9 else encoded)
    return made


class Requests:
    """Makes a random request: what a client of any kind may send."""

    def __init__(self, args, server, random):
        import serve_load

        self.message, self.port, self.random = serve_load.message, server.port, random
        self.images = images(args.images, random)
        self.models = {}
        for model in args.model:
            name = model.split("=")[0]
            about = json.loads(server.get(f"/v2/models/{name}")[1])
            (tensor,) = [tensor for tensor in about["inputs"] if tensor["datatype"] == "FP32"]
            self.models[name] = [int(side) for side in tensor["shape"][1:]]

    def __call__(self):
        name = str(self.random.choice(list(self.models)))
        route = self.random.choice([self.one, self.one, self.many, self.pixels, self.bytes, self.embeddings])
        return route(name)

    def image(self):
        return self.images[self.random.integers(len(self.images))]

    def some(self):
        return [self.image() for _ in range(self.random.integers(1, 9))]

    def one(self, name):
        extras = ("max_drop=0", "survivors=true", "timeout_ms=20")
        query = "".join(f"&{extra}" for extra in extras if self.random.random() < 0.2)
        return self.message(self.port, f"/predict?model={name}{query}", self.image(), ["Content-Type: image/*"])

    def many(self, name):
        parts = [
            b'--soak\r\nContent-Disposition: form-data; name="image"; filename="%d"\r\n\r\n%b\r\n' % (i, image)
            for i, image in enumerate(self.some())
        ]
        head = ["Content-Type: multipart/form-data; boundary=soak"]
        return self.message(self.port, f"/predict?model={name}", b"".join(parts) + b"--soak--\r\n", head)

    def tensors(self, name, tensor, body):
        tensor["parameters"] = {"binary_data_size": len(body)}
        about = json.dumps({"inputs": [tensor]}).encode()
        head = ["Content-Type: application/octet-stream", f"Inference-Header-Content-Length: {len(about)}"]
        return self.message(self.port, f"/v2/models/{name}/infer", about + body, head)

    def pixels(self, name):
        import numpy as np

        shape = [int(self.random.integers(1, 6)), *self.models[name]]
        values = self.random.standard_normal(shape, dtype=np.float32)
        tensor = {"name": "pixel_values", "shape": shape, "datatype": "FP32"}
        return self.tensors(name, tensor, values.tobytes())

    def bytes(self, name):
        some = self.some()
        body = b"".join(len(image).to_bytes(4, "little") + image for image in some)
        return self.tensors(name, {"name": "images", "shape": [len(some)], "datatype": "BYTES"}, body)

    def embeddings(self, name):
        texts = [base64.b64encode(image).decode() for image in self.some()]
        body = json.dumps({"model": name, "input": texts}).encode()
        return self.message(self.port, "/v1/embeddings", body, ["Content-Type: application/json"])


def soak(args, server):
    """Runs the load; returns samples of the memory, the statuses, and what must not happen."""
    import numpy as np
    import serve_load

    random = np.random.default_rng(args.seed)
    make = Requests(args, server, random)
    samples, statuses, failures = [], collections.Counter(), []
    out = open(args.out, "w") if args.out else None
    end, began = time.monotonic() + args.seconds, time.monotonic()

    async def vanish():
        """Clients that connect, send some of a request, and are gone."""
        while True:
            _, writer = await asyncio.open_connection("127.0.0.1", server.port)
            payload = make()
            writer.write(payload[: random.integers(len(payload) + 1)])
            await asyncio.sleep(0.05)
            writer.transport.abort()

    async def sample():
        while True:
            one = {"seconds": time.monotonic() - began, "requests": sum(statuses.values()), "bytes": server.resident()}
            samples.append(one)
            if out:
                print(json.dumps(one), file=out, flush=True)
            await asyncio.sleep(SAMPLE)

    async def work():
        beside = [asyncio.create_task(vanish()), asyncio.create_task(sample())]
        # In pieces, so that the client does not keep the answers.
        while time.monotonic() < end and sum(statuses.values()) < args.requests:
            load = serve_load.Load(server.port)
            piece = [make() for _ in range(50)]
            answers = await load.closed_loop(lambda i: (i, piece[i]), args.in_flight, None, len(piece))
            for answer in answers:
                statuses[answer.status] += 1
                if answer.status <= 0 or (answer.status >= 500 and answer.status not in (503, 504)):
                    failures.append((answer.status, answer.body[:200].decode(errors="replace")))
        for task in beside:
            task.cancel()

    import uvloop

    uvloop.run(work())
    return samples, statuses, failures


def report(args, samples, statuses, failures, code):
    """The slope of the memory by least squares, with its standard error."""
    import numpy as np

    count, seconds = sum(statuses.values()), samples[-1]["seconds"]
    print(f"{count} requests in {seconds:.0f} s, by status: {dict(sorted(statuses.items()))}; exit status {code}")
    for status, text in failures[:10]:
        print(f"failure: {status} {text}")
    kept = samples[len(samples) // 5 :]
    mib = np.array([sample["bytes"] for sample in kept]) / 2**20
    print(f"resident memory: {mib[0]:.1f} MiB after warming up, {mib[-1]:.1f} MiB at the end, {mib.max():.1f} MiB at most")
    for name, unit, scale in (("seconds", "MiB/hour", 3600.0), ("requests", "MiB/million requests", 1e6)):
        x = np.array([sample[name] for sample in kept]) / scale
        if len(x) < 3 or np.ptp(x) == 0:
            print("too short for a slope")
            return
        slope, base = np.polyfit(x, mib, 1)
        error = np.sqrt(np.sum((mib - slope * x - base) ** 2) / (len(x) - 2) / np.sum((x - x.mean()) ** 2))
        print(f"slope: {slope:.3f} +- {error:.3f} {unit}")


if __name__ == "__main__":
    main()
