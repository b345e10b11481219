"""NVIDIA's own client, unchanged, against the server: the Open Inference Protocol over REST and over gRPC."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Iterator

import numpy as np
import pytest

import vitrim

grpcclient = pytest.importorskip("tritonclient.grpc", reason="SKIPPED: tritonclient[grpc] is not installed")
httpclient = pytest.importorskip("tritonclient.http", reason="SKIPPED: tritonclient[http] is not installed")
from tritonclient.utils import InferenceServerException  # noqa: E402

#: The model's input size, and its classes.
SIDE, CLASSES = 32, 3


@pytest.fixture(scope="module")
def clients(server: Any) -> Iterator[dict[str, tuple[Any, Any]]]:
    """For each protocol the client, and its module."""
    over_http = httpclient.InferenceServerClient(f"127.0.0.1:{server.port}", concurrency=4)
    over_grpc = grpcclient.InferenceServerClient(f"127.0.0.1:{server.grpc_port}")
    yield {"http": (over_http, httpclient), "grpc": (over_grpc, grpcclient)}
    over_http.close()
    over_grpc.close()


@pytest.fixture(params=["http", "grpc"])
def triton(request: Any, clients: dict[str, tuple[Any, Any]]) -> tuple[Any, Any]:
    return clients[request.param]


@pytest.fixture(scope="module")
def direct(tiny: Path) -> vitrim.Model:
    """The same model in this process."""
    return vitrim.load(tiny)


def pixels(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 3, SIDE, SIDE)).astype(np.float32)


def as_tensor(module: Any, values: np.ndarray, **more: Any) -> Any:
    tensor = module.InferInput("pixel_values", list(values.shape), "FP32")
    tensor.set_data_from_numpy(values, **more)
    return tensor


def as_bytes(module: Any, images: list[bytes]) -> Any:
    tensor = module.InferInput("images", [len(images)], "BYTES")
    tensor.set_data_from_numpy(np.array(images, dtype=object))
    return tensor


def plain(message: Any) -> Any:
    """A message of gRPC as the dictionary that REST gives."""
    from google.protobuf.json_format import MessageToDict

    return message if isinstance(message, (dict, list)) else MessageToDict(message, preserving_proto_field_name=True)


def test_the_server_is_live_and_ready(triton: tuple[Any, Any]) -> None:
    client, _ = triton
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready("tiny") and client.is_model_ready("tiny", "1")


def test_metadata(triton: tuple[Any, Any]) -> None:
    client, _ = triton
    about = plain(client.get_server_metadata())
    assert about["name"] == "vitrim" and about["version"] == vitrim.__version__
    assert "binary_tensor_data" in about["extensions"]
    model = plain(client.get_model_metadata("tiny"))
    assert model["name"] == "tiny" and model["versions"] == ["1"]
    (taken,) = [tensor for tensor in model["inputs"] if tensor["datatype"] == "FP32"]
    assert taken["name"] == "pixel_values" and [int(side) for side in taken["shape"]] == [-1, 3, SIDE, SIDE]
    given = {tensor["name"]: [int(side) for side in tensor["shape"]] for tensor in model["outputs"]}
    assert given["logits"] == [-1, CLASSES]


def test_pixels_give_the_logits_of_the_library_bit_for_bit(triton: tuple[Any, Any], direct: vitrim.Model) -> None:
    client, module = triton
    for count in (1, 2, 7):
        values = pixels(count, count)
        answer = client.infer("tiny", [as_tensor(module, values)], request_id=f"n{count}")
        assert answer.get_response().get("id") == f"n{count}" if module is httpclient else answer.get_response().id
        np.testing.assert_array_equal(answer.as_numpy("logits"), direct(values))


@pytest.mark.parametrize("sent", [False, True])
@pytest.mark.parametrize("asked", [False, True])
def test_json_and_binary_tensors_mix(clients: Any, direct: vitrim.Model, sent: bool, asked: bool) -> None:
    client, module = clients["http"]
    values = pixels(2)
    outputs = [module.InferRequestedOutput("logits", binary_data=asked)]
    answer = client.infer("tiny", [as_tensor(module, values, binary_data=sent)], outputs=outputs)
    np.testing.assert_array_equal(answer.as_numpy("logits"), direct(values))


@pytest.mark.parametrize("packed", ["gzip", "deflate"])
def test_compressed_bodies(clients: Any, direct: vitrim.Model, packed: str) -> None:
    client, module = clients["http"]
    values = pixels(2)
    answer = client.infer(
        "tiny",
        [as_tensor(module, values)],
        request_compression_algorithm=packed,
        response_compression_algorithm=packed,
    )
    np.testing.assert_array_equal(answer.as_numpy("logits"), direct(values))


def test_encoded_images(triton: tuple[Any, Any], direct: vitrim.Model, photo: Path, data: Path) -> None:
    client, module = triton
    paths = [photo, *sorted(data.rglob("*.png"))[:2]]
    answer = client.infer("tiny", [as_bytes(module, [path.read_bytes() for path in paths])])
    logits = answer.as_numpy("logits")
    assert logits.shape == (3, CLASSES)
    for row, one in zip(logits, direct.predict(paths, top_k=CLASSES)):
        likely = np.exp(row - row.max())
        order = np.argsort(-row).tolist()
        assert order == [best.class_index for best in one.classes]
        expected = [best.probability for best in one.classes]
        np.testing.assert_allclose((likely / likely.sum())[order], expected, rtol=1e-6)


def test_many_requests_at_once(triton: tuple[Any, Any], direct: vitrim.Model) -> None:
    client, module = triton
    batches = [pixels(1 + i % 3, i) for i in range(24)]
    if module is httpclient:
        pending = [client.async_infer("tiny", [as_tensor(module, values)]) for values in batches]
        answers = [one.get_result() for one in pending]
    else:
        import queue

        arrived: Any = queue.Queue()
        for i, values in enumerate(batches):
            tensors = [as_tensor(module, values)]
            client.async_infer("tiny", tensors, lambda result, error, i=i: arrived.put((i, result, error)))
        found = dict((i, (result, error)) for i, result, error in (arrived.get(timeout=30) for _ in batches))
        assert not [error for _, error in found.values() if error]
        answers = [found[i][0] for i in range(len(batches))]
    for values, answer in zip(batches, answers):
        np.testing.assert_array_equal(answer.as_numpy("logits"), direct(values))


def test_refusals_are_one_line(triton: tuple[Any, Any]) -> None:
    client, module = triton
    cases: list[tuple[str, Any, set[str]]] = [
        ("tiny", as_tensor(module, np.zeros((1, 3, 16, 16), np.float32)), {"422", "400", "StatusCode.INVALID_ARGUMENT"}),
        ("tiny", as_bytes(module, [b"no image"]), {"415", "422", "StatusCode.INVALID_ARGUMENT"}),
        ("another", as_tensor(module, pixels(1)), {"404", "StatusCode.NOT_FOUND"}),
        ("tiny", as_tensor(module, pixels(200)), {"413", "StatusCode.RESOURCE_EXHAUSTED"}),
    ]
    for name, tensor, statuses in cases:
        with pytest.raises(InferenceServerException) as error:
            client.infer(name, [tensor])
        line = error.value.message()
        assert line and "\n" not in line, line
        assert error.value.status() in statuses, (error.value.status(), line)


def test_a_deadline_that_has_passed(clients: Any) -> None:
    client, module = clients["grpc"]
    with pytest.raises(InferenceServerException) as error:
        client.infer("tiny", [as_tensor(module, pixels(32))], client_timeout=1e-4)
    assert error.value.status() == "StatusCode.DEADLINE_EXCEEDED"
    assert client.infer("tiny", [as_tensor(module, pixels(1))]).as_numpy("logits").shape == (1, CLASSES)


def test_the_repository_lists_and_reloads(triton: tuple[Any, Any], direct: vitrim.Model) -> None:
    client, module = triton
    listed = plain(client.get_model_repository_index())
    models = listed if isinstance(listed, list) else listed["models"]
    assert [(model["name"], model["state"]) for model in models] == [("tiny", "READY")]
    client.load_model("tiny")
    assert client.is_model_ready("tiny")
    values = pixels(1)
    answer = client.infer("tiny", [as_tensor(module, values)])
    np.testing.assert_array_equal(answer.as_numpy("logits"), direct(values))
    with pytest.raises(InferenceServerException):
        client.load_model("another")


def test_health_and_reflection_over_grpc(server: Any) -> None:
    grpc = pytest.importorskip("grpc", reason="SKIPPED: grpcio is not installed")
    health = pytest.importorskip("grpc_health.v1.health_pb2", reason="SKIPPED: grpcio-health-checking is not installed")
    stubs = pytest.importorskip("grpc_health.v1.health_pb2_grpc", reason="SKIPPED: grpcio-health-checking is not installed")
    reflection = pytest.importorskip(
        "grpc_reflection.v1alpha.proto_reflection_descriptor_database", reason="SKIPPED: grpcio-reflection is not installed"
    )
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        answer = stubs.HealthStub(channel).Check(health.HealthCheckRequest())
        assert answer.status == health.HealthCheckResponse.SERVING
        services = set(reflection.ProtoReflectionDescriptorDatabase(channel).get_services())
        assert {"inference.GRPCInferenceService", "grpc.health.v1.Health"} <= services
