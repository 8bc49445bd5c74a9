"""Triton's own clients, unchanged, over both protocols."""

import concurrent.futures
import gzip
import json
import socket
import time
import urllib.error
import urllib.request

import numpy
import pytest
import tritonclient.grpc as grpc
import tritonclient.http as http
import tritonclient.utils.shared_memory as shared_memory
from conftest import Server
from tritonclient.utils import InferenceServerException, np_to_triton_dtype


@pytest.fixture(params=[http, grpc], ids=["http", "grpc"])
def api(request):
    return request.param


@pytest.fixture
def client(api, server):
    with api.InferenceServerClient(server.http if api is http else server.grpc) as client:
        yield client


def inputs(api, binary=True, **arrays):
    made = []
    for name, array in arrays.items():
        one = api.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        if api is http:
            one.set_data_from_numpy(array, binary_data=binary)
        else:
            one.set_data_from_numpy(array)
        made.append(one)
    return made


def rows(count):
    a = numpy.arange(count * 4, dtype=numpy.float32).reshape(count, 4)
    return a, a[::-1].copy() * 2


def as_dict(answer):
    """What a call over HTTP gives, of what one over gRPC gives."""
    if isinstance(answer, (dict, list)):
        return answer
    from google.protobuf import json_format
    return json_format.MessageToDict(answer, preserving_proto_field_name=True)


def test_server_and_models_are_told(api, client):
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready("add") and client.is_model_ready("twice", "1")
    assert not client.is_model_ready("broken") and not client.is_model_ready("twice", "9")
    about = as_dict(client.get_server_metadata())
    assert about["name"] == "hetra" and "binary_tensor_data" in about["extensions"]
    model = as_dict(client.get_model_metadata("add"))
    assert model["versions"] == ["1"]
    assert [one["name"] for one in model["inputs"]] == ["a", "b"]
    assert [int(extent) for one in model["outputs"] for extent in one["shape"]] == [-1, 4, -1, 4]
    assert as_dict(client.get_model_metadata("twice"))["versions"] == ["1", "2"]
    config = as_dict(client.get_model_config("scale"))
    config = config.get("config", config)
    assert int(config["max_batch_size"]) == 4 and config["input"][0]["data_type"] == "TYPE_INT64"
    assert int(config["dynamic_batching"]["preferred_batch_size"][0]) == 4
    with pytest.raises(InferenceServerException, match="no model `nope`"):
        client.get_model_metadata("nope")


@pytest.mark.parametrize("binary", [True, False])
def test_results_are_right(api, client, binary):
    a, b = rows(3)
    outputs = [api.InferRequestedOutput("difference", **({"binary_data": binary} if api is http else {})),
               api.InferRequestedOutput("sum", **({"binary_data": not binary} if api is http else {}))]
    for wanted in (outputs, None):
        result = client.infer("add", inputs(api, binary, a=a, b=b), outputs=wanted, request_id="7")
        numpy.testing.assert_array_equal(result.as_numpy("sum"), a + b)
        numpy.testing.assert_array_equal(result.as_numpy("difference"), a - b)
        response = result.get_response()
        assert (response["id"] if api is http else response.id) == "7"


def test_versions_halves_and_strings(api, client):
    x = numpy.array([[1.5, -2], [3, 4]], dtype=numpy.float16)
    for version, wanted in (("1", x + x), ("2", -x), ("", -x)):
        result = client.infer("twice", inputs(api, x=x), model_version=version)
        numpy.testing.assert_array_equal(result.as_numpy("y"), wanted)
    texts = numpy.array(["one".encode(), "zwölf".encode()], dtype=object)
    result = client.infer("texts", inputs(api, x=texts))
    assert [text.decode() for text in result.as_numpy("y")] == ["one", "zwölf"]


def test_wrong_requests_are_refused(api, client):
    a, b = rows(2)
    for model, given, wanted in [
        ("add", inputs(api, a=a), "`b` is missing"),
        ("add", inputs(api, a=a, b=b, c=b), "no input `c`"),
        ("add", inputs(api, a=a, b=b[:1]), "different numbers of rows"),
        ("add", inputs(api, a=a, b=b.astype(numpy.int64)), "TYPE_FP32"),
        ("add", inputs(api, a=a[:, :3].copy(), b=b), "not \\[2, 3\\]"),
        ("scale", inputs(api, x=numpy.zeros((5, 4), numpy.int64)), "wanted 1 to 4"),
        ("nope", inputs(api, a=a), "no model `nope`"),
        ("broken", inputs(api, a=a), "not loaded"),
    ]:
        with pytest.raises(InferenceServerException, match=wanted):
            client.infer(model, given)
    with pytest.raises(InferenceServerException, match="no output `z`"):
        client.infer("add", inputs(api, a=a, b=b), outputs=[api.InferRequestedOutput("z")])
    with pytest.raises(InferenceServerException, match="3 outputs are asked for; it has 2"):
        client.infer("add", inputs(api, a=a, b=b), outputs=[api.InferRequestedOutput("sum")] * 3)
    with pytest.raises(InferenceServerException, match="given twice"):
        client.infer("add", inputs(api, a=a) * 2)
    with pytest.raises(InferenceServerException, match="keeps state"):
        client.infer("add", inputs(api, a=a, b=b), sequence_id=3, sequence_start=True)


def test_requests_of_the_background(api, client):
    a, b = rows(1)
    if api is http:
        pending = [client.async_infer("add", inputs(api, a=a + n, b=b)) for n in range(8)]
        results = [one.get_result() for one in pending]
    else:
        with concurrent.futures.ThreadPoolExecutor() as pool:
            one = lambda n: client.infer("add", inputs(api, a=a + n, b=b))
            results = list(pool.map(one, range(8)))
    for n, result in enumerate(results):
        numpy.testing.assert_array_equal(result.as_numpy("sum"), a + n + b)


def test_rows_run_together(server):
    """Four requests within the delay are one run; the preferred size does not wait for it."""
    def one(n):
        with http.InferenceServerClient(server.http) as client:
            x = numpy.full((1, 4), n, dtype=numpy.int64)
            return n, client.infer("scale", inputs(http, x=x)).as_numpy("y")
    with http.InferenceServerClient(server.http) as client:
        before = client.get_inference_statistics("scale")["model_stats"][0]
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            for n, y in pool.map(one, range(4)):
                numpy.testing.assert_array_equal(y, numpy.full((1, 4), n * n))
        after = client.get_inference_statistics("scale")["model_stats"][0]
    assert after["inference_count"] - before["inference_count"] == 4
    assert after["execution_count"] - before["execution_count"] < 4
    assert max(one["batch_size"] for one in after["batch_stats"]) > 1
    stats = after["inference_stats"]
    assert stats["success"]["count"] >= 4 and stats["compute_infer"]["ns"] > 0


def test_rows_that_are_not_of_their_own_do_not(api, client):
    sizes = {}
    for name in ("add", "share"):
        config = as_dict(client.get_model_config(name))
        sizes[name] = int(config.get("config", config).get("max_batch_size", 0))
    assert sizes == {"add": 8, "share": 0}


def test_one_request_does_not_spoil_another(server):
    """Requests that run together: one has an index that there is none of."""
    def one(index):
        with http.InferenceServerClient(server.http) as client:
            x = numpy.array([[index]], dtype=numpy.int64)
            try:
                return client.infer("pick", inputs(http, x=x)).as_numpy("y").tolist()
            except InferenceServerException as error:
                return str(error)
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        good, bad, other = pool.map(one, (1, 99, 2))
    assert (good, other) == ([[20]], [[30]]) and "pick" in bad


def test_statistics_of_all(api, client):
    names = {one["name"] for one in as_dict(client.get_inference_statistics())["model_stats"]}
    assert names == {"add", "twice", "texts", "scale", "share", "pick"}


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compressed(api, client, algorithm):
    a, b = rows(64)
    a, b = a[:8], b[:8]
    how = {"compression_algorithm": algorithm} if api is grpc else {
        "request_compression_algorithm": algorithm, "response_compression_algorithm": algorithm}
    result = client.infer("add", inputs(api, a=a, b=b), **how)
    numpy.testing.assert_array_equal(result.as_numpy("sum"), a + b)


def test_shared_memory(api, client):
    a, b = rows(2)
    size = a.nbytes
    handle = shared_memory.create_shared_memory_region("tensors", f"/hetra-{api.__name__}", 3 * size)
    try:
        shared_memory.set_shared_memory_region(handle, [a, b])
        client.register_system_shared_memory("tensors", f"/hetra-{api.__name__}", 3 * size)
        status = as_dict(client.get_system_shared_memory_status())
        assert "tensors" in str(status)
        given = [api.InferInput(name, [2, 4], "FP32") for name in "ab"]
        given[0].set_shared_memory("tensors", size)
        given[1].set_shared_memory("tensors", size, offset=size)
        wanted = api.InferRequestedOutput("sum")
        wanted.set_shared_memory("tensors", size, offset=2 * size)
        client.infer("add", given, outputs=[wanted])
        found = shared_memory.get_contents_as_numpy(handle, numpy.float32, [6, 4])[4:]
        numpy.testing.assert_array_equal(found, a + b)
        given[0].set_shared_memory("tensors", size, offset=3 * size)
        with pytest.raises(InferenceServerException, match="has 96 bytes"):
            client.infer("add", given)
        client.unregister_system_shared_memory("tensors")
        with pytest.raises(InferenceServerException, match="no region"):
            client.infer("add", given)
    finally:
        shared_memory.destroy_shared_memory_region(handle)


def test_models_come_and_go(api, client):
    index = as_dict(client.get_model_repository_index())
    index = index if isinstance(index, list) else index["models"]
    states = {one["name"]: one.get("state") for one in index}
    assert states["add"] == "READY" and states["broken"] == "UNAVAILABLE"
    client.unload_model("texts")
    assert not client.is_model_ready("texts")
    client.load_model("texts")
    assert client.is_model_ready("texts")
    client.load_model("texts", config=json.dumps({"instance_group": [{"count": 3}]}))
    config = as_dict(client.get_model_config("texts"))
    assert int(config.get("config", config)["instance_group"][0]["count"]) == 3
    with pytest.raises(InferenceServerException, match="sequence_batching"):
        client.load_model("texts", config=json.dumps({"sequence_batching": {}}))
    # What was there goes on.
    assert client.is_model_ready("texts")
    with pytest.raises(InferenceServerException, match="broken"):
        client.load_model("broken")
    with pytest.raises(InferenceServerException, match="there is no"):
        client.load_model("../repository/add")


def test_a_stream(server):
    a, b = rows(1)
    results = []
    with grpc.InferenceServerClient(server.grpc) as client:
        client.start_stream(lambda result, error: results.append((result, error)))
        for n in range(5):
            client.async_stream_infer("add", inputs(grpc, a=a + n, b=b))
        client.async_stream_infer("add", inputs(grpc, a=a))
        client.stop_stream()
    for n, (result, error) in enumerate(results[:5]):
        assert error is None
        numpy.testing.assert_array_equal(result.as_numpy("sum"), a + n + b)
    assert "`b` is missing" in str(results[5][1])


def ask(url, body=None, **headers):
    """Status, headers and body of a plain request."""
    request = urllib.request.Request(f"http://{url}", data=body, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, response.headers, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


def test_plain_json(server):
    given = {"inputs": [{"name": name, "datatype": "FP32", "shape": [1, 4], "data": [[1, 2, 3, 4]]}
                        for name in "ab"], "outputs": [{"name": "sum"}]}
    path = f"{server.http}/v2/models/add/versions/1/infer"
    status, _, body = ask(path, json.dumps(given).encode())
    assert status == 200 and json.loads(body)["outputs"][0]["data"] == [2, 4, 6, 8]
    for body, wanted in [(b"{", 400), (b"[]", 400), (b"{\"inputs\": 3}", 400), (b"\xff\xfe", 400),
                         (json.dumps({"inputs": [given["inputs"][0]] * 2}).encode(), 400)]:
        status, _, answer = ask(path, body)
        assert status == wanted and "error" in json.loads(answer)
    assert ask(f"{server.http}/v2/nothing")[0] == 404
    assert ask(f"{server.http}/v2/models/add/infer")[0] == 405
    bomb = gzip.compress(bytes(65 << 20))
    assert ask(path, bomb, **{"Content-Encoding": "gzip"})[0] == 413


def test_metrics(server):
    text = ask(f"{server.metrics}/metrics")[2].decode()
    counts = [line for line in text.splitlines() if line.startswith('nv_inference_count{model="add"')]
    assert counts and float(counts[0].split()[-1]) > 0
    assert 'hetra_requests_shed{model="scale",version="1"}' in text


def test_what_cannot_be_in_time_is_shed(repository):
    """One request at a time waits; more are refused at once, with when to come again."""
    started = Server(repository, "--model", "add")
    try:
        with http.InferenceServerClient(started.http) as client:
            config = {"max_batch_size": 4, "dynamic_batching": {
                "max_queue_delay_microseconds": 400000, "default_queue_policy": {"max_queue_size": 1}}}
            client.load_model("add", config=json.dumps(config))
        given = {"inputs": [{"name": name, "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}
                            for name in "ab"]}
        send = lambda more: ask(f"{started.http}/v2/models/add/infer", json.dumps({**given, **more}).encode())
        with concurrent.futures.ThreadPoolExecutor(3) as pool:
            answers = list(pool.map(send, [{}] * 3))
        assert sorted(status for status, *_ in answers) == [200, 429, 429]
        refused = next(headers for status, headers, _ in answers if status == 429)
        assert int(refused["Retry-After"]) >= 1
        # A client that goes gives its place back.
        host, port = started.http.split(":")
        body = json.dumps(given).encode()
        head = f"POST /v2/models/add/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        with socket.create_connection((host, int(port))) as gone:
            gone.sendall(head.encode() + body)
            time.sleep(0.1)
        time.sleep(0.05)
        assert send({})[0] == 200
        # It waits for others no longer than its time allows.
        from_ = time.monotonic()
        status, _, body = send({"parameters": {"timeout": 100000}})
        assert status == 200 or status == 504, body
        assert time.monotonic() - from_ < 0.35
    finally:
        assert started.end() == 0


def test_tokens(repository, tmp_path):
    token = tmp_path / "token"
    token.write_text("secret\n")
    started = Server(repository, "--model", "add", "--token-file", str(token), "--no-control")
    try:
        assert ask(f"{started.http}/v2/health/live")[0] == 200
        assert ask(f"{started.http}/v2")[0] == 401
        assert ask(f"{started.http}/v2", Authorization="Bearer secre")[0] == 401
        known = {"Authorization": "Bearer secret"}
        assert ask(f"{started.http}/v2", **known)[0] == 200
        status, _, body = ask(f"{started.http}/v2/repository/models/add/unload", b"", **known)
        assert status == 400 and b"not loaded and unloaded by requests" in body
        with grpc.InferenceServerClient(started.grpc) as client:
            with pytest.raises(InferenceServerException, match="token"):
                client.get_server_metadata()
            headers = {"authorization": "Bearer secret"}
            assert client.get_server_metadata(headers=headers).name == "hetra"
    finally:
        assert started.end() == 0
