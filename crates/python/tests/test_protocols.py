"""What other libraries do with arrays, and what arrays do with theirs."""

import copy
import pickle
import threading

import numpy as np
import pytest
from conftest import close

import hetra


def test_the_example(device):
    """A product of NumPy's matrices on a device, by changing one import."""
    x = np.random.default_rng(1).random((1024, 1024), dtype=np.float32)
    on_device = hetra.asarray(x, device=device)
    product = hetra.asnumpy(hetra.matmul(on_device, on_device))
    wanted = x @ x
    assert product.dtype == np.float32
    assert np.max(np.abs(product - wanted) / np.abs(wanted)) < 1e-4


def test_one_can_wait_for_a_device(device):
    with hetra.device(device) as where:
        x = hetra.exp(hetra.ones((64, 64)))
        x.eval()
        hetra.synchronize()
    for of in (device, where, x.device):
        hetra.synchronize(of)
    with pytest.raises(hetra.DeviceError):
        hetra.synchronize("wgpu:99")


def test_numpys_functions_give_arrays(device):
    x = np.linspace(0.1, 2, 12, dtype=np.float64).reshape(3, 4)
    y = hetra.asarray(x, device=device)
    close(np.exp(y), np.exp(x))
    close(np.add(y, 1), x + 1)
    close(x + y, x + x)
    close(y - x, x - x)
    close(np.float64(2) * y, 2 * x)
    close(np.sum(y, axis=0), x.sum(axis=0))
    close(np.add.reduce(y, axis=1), x.sum(axis=1))
    close(np.concatenate([y, y], axis=1), np.concatenate([x, x], 1))
    close(np.where(y > 1, y, 0), np.where(x > 1, x, 0))
    close(np.matmul(y, y.T), x @ x.T)
    close(np.linalg.norm(y), np.asarray(np.linalg.norm(x)))
    close(np.transpose(y), x.T)
    close(np.cumsum(y), np.cumsum(x))
    close(np.clip(y, 0.5, 1), np.clip(x, 0.5, 1))
    close(np.mean(y, axis=1), x.mean(axis=1))
    assert np.allclose(y, x)
    assert np.exp(y).device == y.device
    out = hetra.zeros((3, 4), device=device)
    assert np.multiply(y, y, out=out) is out
    close(out, x * x)
    with pytest.raises(TypeError):
        np.polyfit(y, y, 1)


def test_arrays_come_and_go_without_copies():
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    y = hetra.from_dlpack(x)
    assert np.shares_memory(np.from_dlpack(y), x)
    assert np.shares_memory(np.asarray(y, copy=False), x) if np.lib.NumpyVersion(np.__version__) >= "2.0.0" else True
    # `asarray` copies: what NumPy changes later is not seen.
    z = hetra.asarray(x)
    x[0, 0] = 9
    assert z[0, 0] == 0 and hetra.asnumpy(y)[0, 0] == 9
    # The memory outlives either side.
    del x
    close(y, np.asarray([[9, 1, 2], [3, 4, 5]], np.float32))
    given = np.from_dlpack(y)
    del y
    assert given[0, 0] == 9
    assert hetra.zeros(3).__dlpack_device__() == (1, 0)


def test_others_arrays_of_any_form():
    base = np.arange(24.0).reshape(2, 3, 4)
    for x in (base[::-1], base.T, base[:, 1:, ::2], base.astype(">f8"), np.asfortranarray(base), base[:0]):
        close(hetra.asarray(x), x.astype("float64"))
    read_only = base.copy()
    read_only.flags.writeable = False
    close(hetra.asarray(read_only), base)
    close(hetra.from_dlpack(base.T), base.T)
    with pytest.raises(BufferError):
        hetra.from_dlpack(base.T, copy=False)
    for wrong in ("text", object(), np.array(["a"]), np.array([1], dtype="m8[s]"), [[1], [2, 3]]):
        with pytest.raises((TypeError, ValueError)):
            hetra.asarray(wrong)
    capsule = base.__dlpack__()
    hetra._core.from_dlpack(capsule)
    with pytest.raises(ValueError, match="taken before"):
        hetra._core.from_dlpack(capsule)


def test_pickles_and_copies(device):
    x = hetra.asarray(np.arange(6.0).reshape(2, 3), device=device)
    again = pickle.loads(pickle.dumps(x))
    assert again.device == x.device
    close(again, hetra.asnumpy(x))
    other = copy.deepcopy(x)
    other[0, 0] = 9
    assert x[0, 0] == 0 and other[0, 0] == 9


def test_python_protocols():
    x = hetra.asarray([[1, 2], [3, 4]])
    assert [row.tolist() for row in x] == [[1, 2], [3, 4]]
    assert len(x) == 2 and x.tolist() == [[1, 2], [3, 4]] and x.sum().item() == 10
    assert int(x[1, 1]) == 4 and float(x[0, 0]) == 1.0 and [7, 8][x[0, 0]] == 8
    assert bool(x[0, 0]) and f"{x[0, 1]:03d}" == "002"
    assert "dtype=int64" in repr(x) and "device='cpu'" in repr(x)
    with pytest.raises(ValueError, match="neither true nor false"):
        bool(x)
    with pytest.raises(TypeError):
        hash(x)
    with pytest.raises(TypeError):
        x + "a"
    x += 1
    x[0] *= 2
    assert x.tolist() == [[4, 6], [4, 5]]
    with pytest.raises(ValueError, match="in place"):
        x += hetra.zeros((3, 2, 2), dtype="int64")
    assert x.__array_namespace__() is hetra
    assert (x == x).all() and not (x != x).any()


def test_devices_are_chosen_by_block_by_thread_and_by_array(device):
    assert hetra.zeros(2).device == "cpu"
    with hetra.device(device) as block:
        assert hetra.zeros(2).device == block.id
        with hetra.device("cpu"):
            assert hetra.zeros(2).device == "cpu"
        seen = []
        thread = threading.Thread(target=lambda: seen.append(hetra.zeros(2).device))
        thread.start()
        thread.join()
        assert seen == ["cpu"]
        x = hetra.asarray([1.0, 2.0])
    assert hetra.zeros(2).device == "cpu" and x.device == block.id
    close(x.to("cpu"), np.asarray([1.0, 2.0]))
    if block.id != "cpu":
        with pytest.raises(ValueError, match="copy one with `to`"):
            x + hetra.zeros(2)
    with pytest.raises(hetra.DeviceError, match="nonsense"):
        hetra.device("nonsense:7")
    assert {"cpu"} <= {one["id"] for one in hetra.devices() if one["state"] == "found"}


def test_a_chain_stays_on_its_device(device):
    x = hetra.asarray(np.ones((64, 64), np.float32), device=device)
    hetra.eval(x + 1)
    (y, traces) = hetra.trace(lambda: _evaluated(((x @ x) * 2 + x).sum(axis=0)))
    steps = [step for trace in traces for step in trace["steps"]]
    assert len(traces) == 1 and steps
    # Every step has run on the device, by a kernel of its own.
    assert {step[2] for step in steps} == {x.device}
    assert all("reference" not in step[1] for step in steps), steps
    close(y, np.full(64, 64 * 129, np.float32))


def _evaluated(x):
    hetra.eval(x)
    return x


def test_values_are_computed_once():
    x = hetra.asarray(np.ones(1000, np.float32))
    y = x * 2
    (_, first) = hetra.trace(lambda: (y + 1).sum().item())
    assert y.is_ready
    (_, second) = hetra.trace(lambda: (y + 2).sum().item())
    assert not any(step[0] == "Mul" for trace in second for step in trace["steps"])
    assert first


def test_long_chains_do_not_end_the_process():
    x = hetra.zeros(4)
    for _ in range(5000):
        x = x + 1
    assert x.tolist() == [5000.0] * 4
    parts = [hetra.full(2, number) for number in range(500)]
    assert hetra.concat(parts).sum().item() == sum(range(500)) * 2


def test_threads_share_arrays():
    x = hetra.asarray(np.arange(1000.0))
    y = x * 3
    results = []
    threads = [threading.Thread(target=lambda: results.append(y.sum().item())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [3 * 999 * 500.0] * 8


def test_random_numbers_are_the_same_everywhere(device):
    here = hetra.random.default_rng(5)
    there = hetra.random.default_rng(5)
    for draw in ("random", "standard_normal"):
        for dtype in ("float32", "float64"):
            a = getattr(here, draw)((100, 7), dtype=dtype)
            b = getattr(there, draw)((100, 7), dtype=dtype, device=device)
            assert np.array_equal(hetra.asnumpy(a), hetra.asnumpy(b))
    values = hetra.asnumpy(here.integers(3, 9, 10_000))
    assert set(values) == set(range(3, 9))
    assert abs(hetra.asnumpy(hetra.random.randn(50_000)).std() - 1) < 0.02
    with pytest.raises(ValueError):
        here.integers(5, 5)


def test_what_is_wrong_is_said_and_the_process_lives(device):
    x = hetra.zeros((2, 3), device=device)
    for call, error in [
        (lambda: x + hetra.zeros((4,), device=device), ValueError),
        (lambda: x @ x, ValueError),
        (lambda: x.reshape(7), ValueError),
        (lambda: hetra.sum(x, axis=2), IndexError),
        (lambda: hetra.concat([x, x[0]]), ValueError),
        (lambda: hetra.zeros((1 << 40, 1 << 20), device=device), MemoryError),
        (lambda: hetra.arange(1 << 60, device=device), MemoryError),
        (lambda: hetra.zeros(-1), ValueError),
        (lambda: hetra.asarray([1], dtype="int8") + 300, OverflowError),
        (lambda: hetra.bitwise_and(x, x), TypeError),
        (lambda: hetra.einsum("ij,jk", x, x), (ValueError, hetra.DeviceError)),
        (lambda: hetra.asarray(1 << 80), OverflowError),
        (lambda: x.astype("datetime64[s]"), TypeError),
        (lambda: hetra.InferenceSession("nowhere.onnx"), (hetra.ModelError, OSError)),
        (lambda: hetra.InferenceSession(b"\x00garbage"), hetra.ModelError),
    ]:
        with pytest.raises(error):
            result = call()
            hetra.eval(result)
    close(x + 1, np.ones((2, 3)))


def test_linear_algebra_is_numpys():
    rng = np.random.default_rng(3)
    a = rng.random((2, 4, 4)) + 4 * np.eye(4)
    x = hetra.asarray(a)
    close(hetra.linalg.inv(x), np.linalg.inv(a))
    close(hetra.linalg.det(x), np.linalg.det(a))
    close(hetra.linalg.solve(x, x[:, :, :1]), np.linalg.solve(a, a[:, :, :1]))
    q, r = hetra.linalg.qr(x)
    close(q @ r, a)
    u, s, vh = hetra.linalg.svd(x)
    close(u @ (s[:, :, None] * vh), a)
    close(hetra.linalg.matrix_power(x, 5), np.linalg.matrix_power(a, 5))
    close(hetra.linalg.trace(x, offset=1), np.trace(a, 1, 1, 2))
    close(hetra.fft.ifft(hetra.fft.fft(x.astype("complex128"))).real.astype("float64"), a)
    with pytest.raises(ValueError, match="[Ss]ingular"):
        hetra.linalg.inv(hetra.zeros((2, 2)))
