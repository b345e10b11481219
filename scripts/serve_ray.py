"""A rival of `vitrim serve`: Ray Serve; see serve_rivals.py."""

import os
import time
from pathlib import Path

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray
from ray import serve
from starlette.requests import Request

from serve_rivals import BATCH_SECONDS, Network, arguments


def application(args):
    # A batch waits while another one computes: requests are admitted beyond what a worker computes at once.
    options = {"num_replicas": args.workers, "max_ongoing_requests": 100, "ray_actor_options": {"num_cpus": 0}}

    @serve.deployment(**options)
    class Classifier:
        def __init__(self):
            self.network = Network(args)

        @serve.batch(max_batch_size=args.batch, batch_wait_timeout_s=BATCH_SECONDS if args.batch > 1 else 0.0)
        async def classify(self, images):
            return self.network.best([self.network.transform(image) for image in images])

        async def __call__(self, request: Request):
            return await self.classify(await request.body())

    return Classifier.bind()


def main():
    args = arguments(__doc__)
    environment = {"env_vars": {"PYTHONPATH": str(Path(__file__).resolve().parent)}}
    ray.init(num_cpus=args.workers, include_dashboard=False, runtime_env=environment, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": args.port})
    serve.run(application(args), route_prefix="/predict")
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    main()
