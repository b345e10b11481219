#!/usr/bin/env python3
"""Compares vitrim with PyTorch, ONNX Runtime and OpenVINO on this CPU, in alternation in one session.

    cargo build --release
    python3 scripts/compare_peers.py --models deit_small_patch16_224 --batches 1 32 --out compare.jsonl

The first run makes a virtual environment (--venv) and installs the peers into it. For every model and
batch size, all engines are loaded first; then rounds alternate between them, ours as a process of its own
each time. Medians over the rounds count. Weights are random: speed does not depend on them. Run it on an
otherwise idle machine and compare ratios; absolute figures drift. JSON lines go to --out, progress to
stderr, Markdown to stdout.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import environment

PACKAGES = ["torch", "timm", "onnx", "onnxscript", "onnxruntime", "openvino"]
ENGINES = ["vitrim", "torch", "torch-compile", "onnxruntime", "openvino"]
DTYPES = ["f32", "bf16", "int8"]
# One batch at a time on all threads, or as OpenVINO's asynchronous mode has it, one on each.
MODES = {"": 1, " in streams": None}
OURS = [(f"vitrim {kind}{mode}", dtype) for kind in ("dense", "pruned") for mode in MODES for dtype in DTYPES]


def main():
    args = arguments()
    environment.enter(args.venv, PACKAGES)
    warnings.filterwarnings("ignore")
    if os.getloadavg()[0] > 0.5:
        note(f"warning: the machine is not idle (load {os.getloadavg()[0]:.1f}): figures will be wrong")

    out = open(args.out, "a") if args.out else None
    cells = {}
    for model in args.models:
        for batch in args.batches:
            with tempfile.TemporaryDirectory() as folder:
                rows = measure_cell(args, model, batch, Path(folder))
            for row in rows:
                line = json.dumps({"model": model, "batch": batch, "threads": args.threads, **row})
                note(line)
                if out:
                    print(line, file=out, flush=True)
            cells[model, batch] = {(row["engine"], row["dtype"]): row for row in rows}
    print(markdown(args, cells))


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["deit_small_patch16_224"])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=5, help="rounds over all engines")
    parser.add_argument("--seconds", type=float, default=2.0, help="time for each engine in each round")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=ENGINES)
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=DTYPES)
    parser.add_argument("--keep", default="0.7", help="keep ratios of the pruned runs, as in `vitrim bench`")
    parser.add_argument("--out", help="file that JSON lines are appended to")
    parser.add_argument("--venv", default=".peers", help="virtual environment of the peers")
    target = os.environ.get("CARGO_TARGET_DIR", "target")
    parser.add_argument("--vitrim", default=f"{target}/release/vitrim", help="our binary")
    args = parser.parse_args()
    if "vitrim" in args.engines and not Path(args.vitrim).exists():
        parser.error(f"no {args.vitrim}: run `cargo build --release`, or name the binary with --vitrim")
    return args


def note(text):
    print(text, file=sys.stderr, flush=True)


def measure_cell(args, model, batch, folder):
    """Measures all engines in alternating rounds; returns one row for each engine and precision."""
    peers = list(load_peers(args, model, batch, folder))
    check_idle()
    rates, shares = {}, {}
    for i in range(args.rounds):
        note(f"{model}, batch {batch}: round {i + 1} of {args.rounds}")
        for mode, streams in MODES.items() if "vitrim" in args.engines else ():
            report = run_vitrim(args, model, batch, streams or args.threads)
            for cell in report["cells"]:
                shares.setdefault((f"vitrim pruned{mode}", cell["dtype"]), []).append(cell["overhead"])
                for kind in ("dense", "pruned"):
                    key = (f"vitrim {kind}{mode}", cell["dtype"])
                    rates.setdefault(key, []).append(cell[kind]["images_per_s"])
        for engine, dtype, images, run in peers:
            rates.setdefault((engine, dtype), []).append(rate_of(images, run, args.seconds))
    versions = {engine: version(engine) for engine, *_ in peers}
    rows = []
    for (engine, dtype), values in rates.items():
        row = {"engine": engine, "dtype": dtype, "version": versions.get(engine)}
        row |= {"images_per_s": statistics.median(values), "rounds": values}
        if (engine, dtype) in shares:
            row["overhead"] = statistics.median(shares[engine, dtype])
        rows.append(row)
    return rows


def run_vitrim(args, model, batch, streams):
    command = [args.vitrim, "bench", "--json", "--quiet", "--model", model, "--batch", str(batch)]
    command += ["--dtype", ",".join(args.dtypes), "--keep", args.keep, "--threads", str(args.threads)]
    command += ["--streams", str(streams), "--rounds", "1", "--seconds", str(2 * args.seconds)]  # dense and pruned
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def rate_of(images, run, seconds):
    """Images/s: the images of a pass divided by its median time."""
    run()
    times, started = [], time.perf_counter()
    while not times or time.perf_counter() - started < seconds:
        before = time.perf_counter()
        run()
        times.append(time.perf_counter() - before)
    return images / statistics.median(times)


def check_idle():
    """Warns if idle engines keep the processor busy."""
    time.sleep(0.5)
    before, busy = time.perf_counter(), time.process_time()
    time.sleep(1)
    share = (time.process_time() - busy) / (time.perf_counter() - before)
    if share > 0.02:
        note(f"warning: idle engines use {share:.0%} of a core, which slows the others down")


def load_peers(args, model, batch, folder):
    """Yields (engine, dtype, images per pass, function that runs a pass); engines that fail are left out."""
    if not set(args.engines) - {"vitrim"}:
        return
    import torch

    torch.set_num_threads(args.threads)
    loaders = [
        load_torch(args, model, batch),
        load_onnxruntime(args, model, batch, folder),
        load_openvino(args, model, batch, folder),
    ]
    for peers in loaders:
        try:
            for engine, dtype, images, run in peers:
                if dtype not in args.dtypes:
                    continue
                run()
                note(f"loaded {engine} {dtype}")
                yield engine, dtype, images, run
        except Exception as error:
            note(f"warning: {type(error).__name__}: {str(error).splitlines()[0]}; left out")


def load_torch(args, name, batch):
    import timm
    import torch

    model = timm.create_model(name, pretrained=False).eval()
    x = torch.randn(batch, 3, *model.patch_embed.img_size)

    def plain(model):
        with torch.inference_mode():
            return model(x)

    def autocast(model):
        with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
            return model(x)

    if "torch" in args.engines:
        yield "torch", "f32", batch, lambda: plain(model)
        yield "torch", "bf16", batch, lambda: autocast(model)
    if "torch-compile" in args.engines:
        # One for each type, so that neither is compiled again for the other.
        for dtype, run in (("f32", plain), ("bf16", autocast)):
            torch._dynamo.reset()
            compiled = torch.compile(timm.create_model(name, pretrained=False).eval())
            yield "torch-compile", dtype, batch, lambda run=run, compiled=compiled: run(compiled)


def export(name, batch, folder, weights=None):
    """Exports `name` for batches of `batch` (`None`: of any size), unless that is done; returns the file and its input.

    `weights` is a safetensors file; without it the weights are random.
    """
    import timm
    import torch

    path = folder / f"{name}-{batch or 'any'}.onnx"
    timm.layers.set_fused_attn(False)
    model = timm.create_model(name, pretrained=False).eval()
    timm.layers.set_fused_attn(True)
    if weights:
        from safetensors.torch import load_file

        model.load_state_dict(load_file(weights))
    x = torch.randn(batch or 2, 3, *model.patch_embed.img_size)
    if not path.exists():
        axes = {} if batch else {"x": {0: "batch"}, "y": {0: "batch"}}
        names = {"input_names": ["x"], "output_names": ["y"], "dynamic_axes": axes}
        torch.onnx.export(model, x, str(path), dynamo=False, opset_version=17, **names)
    return path, x.numpy()


def quantise(path):
    """Writes the network with weights of 8 bits beside it, for ONNX Runtime's dynamic quantisation; returns the file."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantised = path.with_suffix(".int8.onnx")
    quantize_dynamic(path, quantised, weight_type=QuantType.QInt8, per_channel=True)
    return quantised


def load_onnxruntime(args, name, batch, folder):
    if "onnxruntime" not in args.engines:
        return
    import onnxruntime

    path, x = export(name, batch, folder)
    for dtype, file in (("f32", path), ("int8", quantise(path))):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = args.threads
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        feed = {session.get_inputs()[0].name: x}
        yield "onnxruntime", dtype, batch, lambda session=session, feed=feed: session.run(None, feed)


def load_openvino(args, name, batch, folder):
    if "openvino" not in args.engines:
        return
    import openvino

    path, x = export(name, batch, folder)
    core = openvino.Core()
    for dtype in ("f32", "bf16"):
        options = {"INFERENCE_PRECISION_HINT": dtype, "INFERENCE_NUM_THREADS": args.threads}
        network = core.compile_model(str(path), "CPU", {**options, "PERFORMANCE_HINT": "LATENCY"})
        yield "openvino", dtype, batch, lambda network=network: network(x)
        network = core.compile_model(str(path), "CPU", {**options, "PERFORMANCE_HINT": "THROUGHPUT"})
        queue = openvino.AsyncInferQueue(network)

        def flood(queue=queue):
            """Each stream gets a whole batch."""
            for _ in range(len(queue)):
                queue.start_async({0: x})
            queue.wait_all()

        yield "openvino-async", dtype, batch * len(queue), flood


def version(engine):
    from importlib.metadata import version

    return version(engine.split("-")[0])


def ours(kind, dtype, *modes):
    return [(f"vitrim {kind}{mode}", dtype) for mode in modes or [""]]


# (what, the better of these, the better of those, target at batch 1, at batch 32); no target where nothing was promised.
# Like with like: streams count where the peer has them.
RATIOS = [
    ("f32 dense : OpenVINO f32", ours("dense", "f32", *MODES), [("openvino", "f32"), ("openvino-async", "f32")], 1.00, 1.10),
    ("f32 dense : ONNX Runtime f32", ours("dense", "f32"), [("onnxruntime", "f32")], 1.10, 1.40),
    ("f32 dense : PyTorch f32", ours("dense", "f32"), [("torch", "f32"), ("torch-compile", "f32")], 2, 2),
    ("bf16 dense : OpenVINO bf16", ours("dense", "bf16", *MODES), [("openvino", "bf16"), ("openvino-async", "bf16")], 1.00, 1.05),
    ("bf16 dense : PyTorch bf16", ours("dense", "bf16"), [("torch", "bf16"), ("torch-compile", "bf16")], None, None),
    ("int8 dense : bf16 dense", ours("dense", "int8"), ours("dense", "bf16"), 1.1, 1.3),
    ("int8 dense : ONNX Runtime int8", ours("dense", "int8"), [("onnxruntime", "int8")], None, None),
] + [
    (f"{dtype} pruned : dense{mode}", ours("pruned", dtype, mode), ours("dense", dtype, mode), 1.40, 1.48)
    for mode in MODES
    for dtype in DTYPES
]
# The same for shares of the pruned time.
OVERHEAD = (0.05, 0.03)


def markdown(args, cells):
    """Images/s of everything, then our ratios to the peers with what was promised."""
    threads = f"{args.threads} threads, medians of {args.rounds} alternating rounds"
    rows = [row for cell in cells.values() for row in cell.values() if row["version"]]
    versions = {row["engine"].split("-")[0]: row["version"].split("+")[0].split("-")[0] for row in rows}
    lines = [", ".join([threads, *(f"{name} {text}" for name, text in versions.items())])]
    for model in args.models:
        columns = [cells[model, batch] for batch in args.batches]
        batches = [f"batch {batch}" for batch in args.batches]
        found = list(dict.fromkeys(key for cell in columns for key in cell))
        peers = sorted((key for key in found if key not in OURS), key=lambda key: DTYPES.index(key[1]))
        rows = []
        for key in [*(key for key in OURS if key in found), *peers]:
            rate = [f"{cell[key]['images_per_s']:.1f}" if key in cell else "-" for cell in columns]
            rows.append([" ".join(key), *rate])
        lines += ["", f"**{model}**, images/s", "", *table(["", *batches], rows)]

        rows = []
        for what, these, theirs, *targets in RATIOS:
            row = [ratio(cell, these, theirs) for cell in columns]
            if any(row):
                texts = [f"{value:.2f}x" if value else "-" for value in row]
                rows.append([what, *(f">= {target:.2f}x" if target else "-" for target in targets), *texts])
        for dtype in DTYPES:
            row = [cell.get(("vitrim pruned", dtype), {}).get("overhead") for cell in columns]
            if any(row):
                texts = [f"{value:.1%}" if value else "-" for value in row]
                limits = [f"<= {limit:.0%}" for limit in OVERHEAD]
                rows.append([f"{dtype} policy + compaction", *limits, *texts])
        header = ["", "target at batch 1", "at batch 32", *batches]
        lines += ["", f"**{model}**, ratios", "", *table(header, rows)]
    return "\n".join(lines)


def ratio(cell, these, theirs):
    these, theirs = ([cell[key]["images_per_s"] for key in keys if key in cell] for keys in (these, theirs))
    return max(these) / max(theirs) if these and theirs else None


def table(header, rows):
    rows = [header, ["---"] + ["--:"] * (len(header) - 1), *rows]
    return ["| " + " | ".join(row) + " |" for row in rows]


if __name__ == "__main__":
    main()
