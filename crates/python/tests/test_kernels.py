"""Kernels as CuPy has them."""

import numpy as np
import pytest
from conftest import close

import hetra
from hetra import ElementwiseKernel, KernelSyntaxError, ReductionKernel

rng = np.random.default_rng(2)
A, B = (rng.random((4, 5), dtype=np.float32) for _ in range(2))


def test_elementwise(device):
    a, b = (hetra.asarray(x, device=device) for x in (A, B))
    kernel = ElementwiseKernel("float32 x, float32 y", "float32 z", "z = (x - y) * (x - y)", "squared")
    close(kernel(a, b), (A - B) ** 2)
    close(kernel(a, b[0]), (A - B[0]) ** 2)
    close(kernel(a, 0.5), (A - np.float32(0.5)) ** 2)
    generic = ElementwiseKernel(
        "T x, T y", "T low, T high", "T d = x - y; low = d < 0 ? x : y; high = x + y - low;"
    )
    low, high = generic(a, b)
    close(low, np.minimum(A, B))
    close(high, np.maximum(A, B))
    out = hetra.zeros((4, 5), dtype="float32", device=device)
    assert kernel(a, b, out) is out
    close(out, (A - B) ** 2)


def test_expressions_are_those_of_c():
    x = np.asarray([-7, 7, 5, 0], np.int32)
    y = np.asarray([2, -2, 3, 9], np.int32)
    a, b = hetra.asarray(x), hetra.asarray(y)

    def run(body):
        return ElementwiseKernel("int32 x, int32 y", "int32 z", body)(a, b)

    close(run("z = x / y"), np.trunc(x / y).astype(np.int32))
    close(run("z = x % y"), np.fmod(x, y))
    close(run("z = x << 2 | y & 1"), (x << 2) | (y & 1))
    close(run("z = x > 0 && !(y < 0) ? 1 : 2;"), np.where((x > 0) & (y >= 0), 1, 2).astype(np.int32))
    close(run("int t = x; t += y; t *= 2; z = -t + ~y /* comment */ // another"), -(x + y) * 2 + ~y)
    close(run("z = (int)(float(x) * 0.5f)"), np.trunc(x * 0.5).astype(np.int32))
    close(run("z = max(x, y) - min(x, y)"), np.abs(x - y))
    halves = np.asarray([0.5, 1.5, 2.5, -0.5, np.nan], np.float32)
    of_one = lambda body: ElementwiseKernel("float32 x", "float32 z", body)(hetra.asarray(halves))
    close(of_one("z = round(x)"), np.asarray([1, 2, 3, -1, np.nan], np.float32))
    close(of_one("z = fmax(x, 1.0f)"), np.asarray([1, 1.5, 2.5, 1, 1], np.float32))
    close(of_one("z = fmin(x, x)"), halves)


def test_numbers_go_where_the_arrays_are(device):
    x = np.asarray([-7, 7, 5, 0], np.int32)
    remainder = ElementwiseKernel("int32 x", "int32 z", "z = x % 3")
    close(remainder(hetra.asarray(x, device=device)), np.fmod(x, 3))
    both = ElementwiseKernel("float32 x, float32 y", "float32 z", "z = x + y")
    close(both(hetra.asarray(A, device=device), A), A + A)


def test_reductions(device):
    a = hetra.asarray(A, device=device)
    norm = ReductionKernel("T x", "T y", "x * x", "a + b", "y = sqrt(a)", "0", "l2norm")
    close(norm(a), np.sqrt((A * A).sum()), 1e-4)
    close(norm(a, axis=1), np.sqrt((A * A).sum(1)), 1e-4)
    close(norm(a, axis=0, keepdims=True), np.sqrt((A * A).sum(0, keepdims=True)), 1e-4)
    largest = ReductionKernel("float32 x", "float32 y", "fabs(x)", "max(a, b)", "y = a", "0")
    close(largest(a, axis=1), np.abs(A).max(1))


def test_what_is_wrong_is_said():
    for make in (
        lambda: ElementwiseKernel("float32 x", "float32 z", "z = x +"),
        lambda: ElementwiseKernel("float32 x", "float32 z", "z = foo(x)"),
        lambda: ElementwiseKernel("float32", "float32 z", "z = 1"),
        lambda: ElementwiseKernel("float32 x", "float32 z", "x @ 3"),
        lambda: ElementwiseKernel("float32 x", "float32 z", "for (;;) {}"),
        lambda: ReductionKernel("T x", "T y", "x", "a - b", "y = a", "0"),
    ):
        with pytest.raises(KernelSyntaxError):
            make()
    kernel = ElementwiseKernel("float32 x", "float32 z", "z = q")
    with pytest.raises(KernelSyntaxError, match="there is no `q`"):
        kernel(hetra.asarray(A))
    same = ElementwiseKernel("T x, T y", "T z", "z = x + y")
    with pytest.raises(TypeError, match="`y` is float32, got float64"):
        same(hetra.asarray(A), hetra.zeros((4, 5)))
    with pytest.raises(TypeError, match="wanted 2 arguments"):
        same(hetra.asarray(A))


def test_fuse():
    @hetra.fuse(kernel_name="squared")
    def squared(x, y):
        return (x - y) * (x - y)

    close(squared(hetra.asarray(A), hetra.asarray(B)), (A - B) ** 2)
    assert squared.__name__ == "squared"
