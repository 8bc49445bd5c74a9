"""What tests share: devices, and how arrays are compared."""

import os

import numpy as np
import pytest

import hetra


def _found():
    required = os.environ.get("HETRA_REQUIRE_DEVICES", "").split()
    found, missing = ["cpu"], {}
    for name in ("opencl", "wgpu"):
        try:
            hetra.zeros(1, device=name)
            found.append(name)
        except hetra.DeviceError as error:
            if name in required:
                raise
            missing[name] = str(error)
    return found, missing


DEVICES, MISSING = _found()


@pytest.fixture(params=[*DEVICES, *MISSING])
def device(request):
    if request.param in MISSING:
        pytest.skip(f"{request.param}: {MISSING[request.param]}")
    return request.param


def close(got, wanted, rtol=None):
    """The same dtype, shape and numbers, but for roundings."""
    wanted = np.asarray(wanted)
    assert isinstance(got, hetra.Array), type(got)
    assert got.shape == wanted.shape, (got.shape, wanted.shape)
    assert got.dtype == wanted.dtype, (got.dtype, wanted.dtype)
    if wanted.dtype.kind == "f":
        limits = {"float16": 5e-3, "float32": 2e-5, "float64": 1e-12}
        limit = limits[wanted.dtype.name] if rtol is None else rtol
        np.testing.assert_allclose(hetra.asnumpy(got), wanted, rtol=limit, atol=limit)
    else:
        np.testing.assert_array_equal(hetra.asnumpy(got), wanted)
