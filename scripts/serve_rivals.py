"""What the rivals of `vitrim serve` have in common: the model behind them, and how they are started.

The servers are `serve_litserve.py` (LitServe with OpenVINO or ONNX Runtime) and `serve_ray.py` (Ray Serve with OpenVINO). Each
answers `POST /predict` with a JPEG as the body by the five best classes. They decode with Pillow and transform as timm does.
`serve_bench.py` starts them and chooses the fastest of `settings` for each.
"""

import argparse

import numpy as np

from serve_photos import Transform

#: Script, engine, and the path that answers 200 once the server is ready.
RIVALS = {
    "litserve-openvino": ("serve_litserve.py", "openvino", "/health"),
    "litserve-onnxruntime": ("serve_litserve.py", "onnxruntime", "/health"),
    "ray-openvino": ("serve_ray.py", "openvino", "/-/healthz"),
}
#: A batch waits for so long until it is full.
BATCH_SECONDS = 0.005
#: What each engine can compute in; the int8 of ONNX Runtime is a network that was quantised before.
DTYPES = {"openvino": ("f32", "bf16"), "onnxruntime": ("f32", "int8")}


def settings(threads):
    """Workers, threads of each, and the most images of a batch: what is tried on so many cores."""
    return [(threads, 1, 1), (threads, 1, 8), (1, threads, 1), (1, threads, 8)]


def arguments(description):
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--engine", choices=DTYPES, default="openvino")
    parser.add_argument("--network", required=True, help="the model as an ONNX file")
    parser.add_argument("--transform", required=True, help="checkpoint folder with the sizes of the transform")
    parser.add_argument("--port", type=int, default=8100)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1, help="threads of each worker")
    parser.add_argument("--batch", type=int, default=1, help="most images of a batch")
    parser.add_argument("--dtype", default="f32")
    return parser.parse_args()


class Network:
    """The compiled model: encoded images in, the best classes of each out."""

    def __init__(self, args):
        self.transform = Transform.of(args.transform)
        self.logits = {"openvino": openvino_network, "onnxruntime": onnxruntime_network}[args.engine](args)

    def best(self, pixels):
        return [{"classes": row.argsort()[:-6:-1].tolist()} for row in self.logits(np.stack(pixels))]


def openvino_network(args):
    import openvino

    options = {"INFERENCE_PRECISION_HINT": args.dtype, "INFERENCE_NUM_THREADS": args.threads}
    options["PERFORMANCE_HINT"] = "LATENCY"
    request = openvino.Core().compile_model(args.network, "CPU", options).create_infer_request()
    return lambda x: request.infer({0: x})[0]


def onnxruntime_network(args):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = args.threads
    session = onnxruntime.InferenceSession(args.network, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: session.run(None, {name: x})[0]
