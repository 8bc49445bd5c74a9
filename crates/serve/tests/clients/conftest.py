"""A server of the command, and models that are made here."""

import os
import queue
import re
import subprocess
import threading

import numpy
import onnx
import pytest
from onnx import TensorProto, helper

HETRA = os.environ["HETRA_COMMAND"]


def saved(folder, nodes, inputs, outputs, version=1):
    """Saves a model as a version in a folder of a repository."""
    types = {numpy.float32: TensorProto.FLOAT, numpy.int64: TensorProto.INT64,
             numpy.float16: TensorProto.FLOAT16, str: TensorProto.STRING}
    ports = [[helper.make_tensor_value_info(name, types[dtype], shape) for name, dtype, shape in some]
             for some in (inputs, outputs)]
    graph = helper.make_graph(nodes, "made", *ports)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = folder / str(version)
    path.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path / "model.onnx")


def node(op, inputs, outputs, **attributes):
    return helper.make_node(op, inputs, outputs, **attributes)


class Server:
    """`hetra serve` on ports that are free."""

    def __init__(self, repository, *options):
        command = [HETRA, "serve", "--repository", str(repository), "--http-port", "0",
                   "--grpc-port", "0", "--metrics-port", "0", *options]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.said = []
        lines = queue.Queue()

        def read():
            for line in self.process.stderr:
                self.said.append(line)
                lines.put(line)
            lines.put(None)

        threading.Thread(target=read, daemon=True).start()
        while True:
            line = lines.get(timeout=60)
            assert line is not None, "".join(self.said)
            if found := re.match(r"serving http://(\S+), gRPC (\S+), http://(\S+)/metrics", line):
                self.http, self.grpc, self.metrics = found.groups()
                return

    def end(self):
        """Tells it to end, and waits until it has."""
        self.process.terminate()
        return self.process.wait(timeout=60)


@pytest.fixture(scope="session")
def repository(tmp_path_factory):
    """Models: `add` adds and subtracts rows, `twice` has two versions and is in halves, `texts` passes
    strings on, `scale` has a configuration, `share` has rows that
    are not of their own, `pick` looks numbers up, `broken` is none."""
    root = tmp_path_factory.mktemp("repository")
    row = ["n", 4]
    saved(root / "add", [node("Add", ["a", "b"], ["sum"]), node("Sub", ["a", "b"], ["difference"])],
          [("a", numpy.float32, row), ("b", numpy.float32, row)],
          [("sum", numpy.float32, row), ("difference", numpy.float32, row)])
    for version in (1, 2):
        saved(root / "twice", [node("Add", ["x", "x"], ["y"]) if version == 1 else node("Neg", ["x"], ["y"])],
              [("x", numpy.float16, [2, 2])], [("y", numpy.float16, [2, 2])], version)
    (root / "twice" / "config.pbtxt").write_text("version_policy { all { } }")
    saved(root / "texts", [node("Identity", ["x"], ["y"])], [("x", str, [2])], [("y", str, [2])])
    saved(root / "scale", [node("Mul", ["x", "x"], ["y"])],
          [("x", numpy.int64, row)], [("y", numpy.int64, row)])
    (root / "scale" / "config.pbtxt").write_text("""
        max_batch_size: 4
        input [ { name: "x" data_type: TYPE_INT64 dims: [ 4 ] } ]
        dynamic_batching { max_queue_delay_microseconds: 100000 preferred_batch_size: [ 4 ] }
        instance_group [ { count: 1 kind: KIND_CPU } ]
    """)
    saved(root / "share", [node("Softmax", ["x"], ["y"], axis=0)],
          [("x", numpy.float32, row)], [("y", numpy.float32, row)])
    table = node("Constant", [], ["table"], value_ints=[10, 20, 30])
    saved(root / "pick", [table, node("Gather", ["table", "x"], ["y"])],
          [("x", numpy.int64, ["n", 1])], [("y", numpy.int64, ["n", 1])])
    (root / "pick" / "config.pbtxt").write_text(
        "max_batch_size: 4 dynamic_batching { max_queue_delay_microseconds: 100000 }")
    (root / "broken" / "1").mkdir(parents=True)
    (root / "broken" / "1" / "model.onnx").write_bytes(b"no model")
    return root


@pytest.fixture(scope="session")
def server(repository):
    started = Server(repository)
    yield started
    assert started.end() == 0, "".join(started.said)
