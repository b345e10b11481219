#!/usr/bin/env python3
"""Receives spans by OTLP over gRPC and prints each as a line of JSON, to see what `vitrim serve` sends.

    pip install grpcio opentelemetry-proto
    python3 scripts/otel_sink.py --port 4317
    vitrim serve --model my/deit --otlp-endpoint http://127.0.0.1:4317
"""

from __future__ import annotations

import argparse
import json
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1 import trace_pb2


def attributes(pairs):
    """A dictionary of what OTLP has as pairs of a key and one of several kinds of value."""
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}


def described(span, resource):
    """A span as a dictionary that JSON can hold; the parent's id is empty if there is none."""
    return {
        "name": span.name,
        "kind": trace_pb2.Span.SpanKind.Name(span.kind),
        "status": trace_pb2.Status.StatusCode.Name(span.status.code),
        "trace": span.trace_id.hex(),
        "span": span.span_id.hex(),
        "parent": span.parent_span_id.hex(),
        "ms": (span.end_time_unix_nano - span.start_time_unix_nano) / 1e6,
        "attributes": attributes(span.attributes),
        "service": attributes(resource.attributes).get("service.name"),
    }


class Sink(trace_service_pb2_grpc.TraceServiceServicer):
    """A collector on loopback that keeps all spans in `spans`; a context manager."""

    def __init__(self, port=0, tell=lambda span: None):
        self.spans, self.tell, self.lock = [], tell, threading.Lock()
        self.server = grpc.server(ThreadPoolExecutor(2), options=[("grpc.so_reuseport", 0)])
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, self.server)
        self.port = self.server.add_insecure_port(f"127.0.0.1:{port}")

    def Export(self, request, context):  # noqa: N802: the service's name for it
        for of_resource in request.resource_spans:
            for of_scope in of_resource.scope_spans:
                for span in of_scope.spans:
                    span = described(span, of_resource.resource)
                    with self.lock:
                        self.spans.append(span)
                        self.tell(span)
        return trace_service_pb2.ExportTraceServiceResponse()

    def __enter__(self):
        self.server.start()
        return self

    def __exit__(self, *_):
        self.server.stop(None).wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=4317)
    given = parser.parse_args()
    with Sink(given.port, lambda span: print(json.dumps(span), flush=True)) as sink:
        sink.server.wait_for_termination()


if __name__ == "__main__":
    main()
