"""A rival of `vitrim serve`: LitServe with OpenVINO or ONNX Runtime; see serve_rivals.py."""

from typing import Annotated

import litserve
from fastapi import Body

from serve_rivals import BATCH_SECONDS, Network, arguments


class Classifier(litserve.LitAPI):
    def __init__(self, args):
        super().__init__(max_batch_size=args.batch, batch_timeout=BATCH_SECONDS if args.batch > 1 else 0.0)
        self.args = args

    def setup(self, device):
        self.network = Network(self.args)

    def decode_request(self, request: Annotated[bytes, Body(media_type="image/jpeg")]):
        return self.network.transform(request)

    def batch(self, inputs):
        return inputs

    def predict(self, x):
        return self.network.best(x) if self.args.batch > 1 else self.network.best([x])[0]

    def unbatch(self, output):
        return output

    def encode_response(self, output):
        return output


def main():
    args = arguments(__doc__)
    server = litserve.LitServer(Classifier(args), accelerator="cpu", workers_per_device=args.workers)
    server.run(host="127.0.0.1", port=args.port, generate_client_file=False, num_api_servers=1, log_level="warning")


if __name__ == "__main__":
    main()
