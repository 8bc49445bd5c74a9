"""The names and signatures of the Python array API standard 2024.12, in a table of our own, and
what libraries that are written against it do with these arrays."""

import inspect
import os
import subprocess
import sys

import numpy as np
import pytest

import hetra

# Name, and its parameters: those before `/` by place only, those after `*` by name only.
FUNCTIONS = """
abs(x,/) acos(x,/) acosh(x,/) add(x1,x2,/) asin(x,/) asinh(x,/) atan(x,/) atan2(x1,x2,/) atanh(x,/)
bitwise_and(x1,x2,/) bitwise_invert(x,/) bitwise_left_shift(x1,x2,/) bitwise_or(x1,x2,/)
bitwise_right_shift(x1,x2,/) bitwise_xor(x1,x2,/) ceil(x,/) clip(x,/,min,max) conj(x,/)
copysign(x1,x2,/) cos(x,/) cosh(x,/) divide(x1,x2,/) equal(x1,x2,/) exp(x,/) expm1(x,/) floor(x,/)
floor_divide(x1,x2,/) greater(x1,x2,/) greater_equal(x1,x2,/) hypot(x1,x2,/) imag(x,/) isfinite(x,/)
isinf(x,/) isnan(x,/) less(x1,x2,/) less_equal(x1,x2,/) log(x,/) log10(x,/) log1p(x,/) log2(x,/)
logaddexp(x1,x2,/) logical_and(x1,x2,/) logical_not(x,/) logical_or(x1,x2,/) logical_xor(x1,x2,/)
maximum(x1,x2,/) minimum(x1,x2,/) multiply(x1,x2,/) negative(x,/) nextafter(x1,x2,/)
not_equal(x1,x2,/) positive(x,/) pow(x1,x2,/) real(x,/) reciprocal(x,/) remainder(x1,x2,/) round(x,/)
sign(x,/) signbit(x,/) sin(x,/) sinh(x,/) sqrt(x,/) square(x,/) subtract(x1,x2,/) tan(x,/) tanh(x,/)
trunc(x,/)
all(x,/,*,axis,keepdims) any(x,/,*,axis,keepdims) diff(x,/,*,axis,n,prepend,append)
argmax(x,/,*,axis,keepdims) argmin(x,/,*,axis,keepdims) count_nonzero(x,/,*,axis,keepdims)
nonzero(x,/) searchsorted(x1,x2,/,*,side,sorter) where(condition,x1,x2,/)
argsort(x,/,*,axis,descending,stable) sort(x,/,*,axis,descending,stable)
unique_all(x,/) unique_counts(x,/) unique_inverse(x,/) unique_values(x,/)
cumulative_prod(x,/,*,axis,dtype,include_initial) cumulative_sum(x,/,*,axis,dtype,include_initial)
max(x,/,*,axis,keepdims) mean(x,/,*,axis,keepdims) min(x,/,*,axis,keepdims)
prod(x,/,*,axis,dtype,keepdims) std(x,/,*,axis,correction,keepdims) sum(x,/,*,axis,dtype,keepdims)
var(x,/,*,axis,correction,keepdims)
broadcast_arrays(*arrays) broadcast_to(x,/,shape) concat(arrays,/,*,axis) expand_dims(x,/,axis)
flip(x,/,*,axis) moveaxis(x,source,destination,/) permute_dims(x,/,axes)
repeat(x,repeats,/,*,axis) reshape(x,/,shape,*,copy) roll(x,/,shift,*,axis) squeeze(x,/,axis)
stack(arrays,/,*,axis) tile(x,repetitions,/) unstack(x,/,*,axis)
take(x,indices,/,*,axis) take_along_axis(x,indices,/,*,axis)
matmul(x1,x2,/) matrix_transpose(x,/) tensordot(x1,x2,/,*,axes) vecdot(x1,x2,/,*,axis)
arange(start,/,stop,step,*,dtype,device) asarray(obj,/,*,dtype,device,copy)
empty(shape,*,dtype,device) empty_like(x,/,*,dtype,device) eye(n_rows,n_cols,/,*,k,dtype,device)
from_dlpack(x,/,*,device,copy) full(shape,fill_value,*,dtype,device)
full_like(x,/,fill_value,*,dtype,device) linspace(start,stop,/,num,*,dtype,device,endpoint)
meshgrid(*arrays,indexing) ones(shape,*,dtype,device) ones_like(x,/,*,dtype,device) tril(x,/,*,k)
triu(x,/,*,k) zeros(shape,*,dtype,device) zeros_like(x,/,*,dtype,device)
astype(x,dtype,/,*,copy,device) can_cast(from_,to,/) isdtype(dtype,kind)
result_type(*of)
linalg.cholesky(x,/,*,upper) linalg.cross(x1,x2,/,*,axis) linalg.det(x,/)
linalg.diagonal(x,/,*,offset) linalg.eigh(x,/) linalg.eigvalsh(x,/) linalg.inv(x,/)
linalg.matmul(x1,x2,/) linalg.matrix_norm(x,/,*,keepdims,ord) linalg.matrix_power(x,n,/)
linalg.matrix_rank(x,/,*,rtol) linalg.matrix_transpose(x,/) linalg.outer(x1,x2,/)
linalg.pinv(x,/,*,rtol) linalg.qr(x,/,*,mode) linalg.slogdet(x,/) linalg.solve(x1,x2,/)
linalg.svd(x,/,*,full_matrices) linalg.svdvals(x,/) linalg.tensordot(x1,x2,/,*,axes)
linalg.trace(x,/,*,offset,dtype) linalg.vecdot(x1,x2,/,*,axis)
linalg.vector_norm(x,/,*,axis,keepdims,ord)
fft.fft(x,/,*,n,axis,norm) fft.ifft(x,/,*,n,axis,norm) fft.fftn(x,/,*,s,axes,norm)
fft.ifftn(x,/,*,s,axes,norm) fft.rfft(x,/,*,n,axis,norm) fft.irfft(x,/,*,n,axis,norm)
fft.rfftn(x,/,*,s,axes,norm) fft.irfftn(x,/,*,s,axes,norm) fft.hfft(x,/,*,n,axis,norm)
fft.ihfft(x,/,*,n,axis,norm) fft.fftfreq(n,/,*,d,dtype,device) fft.rfftfreq(n,/,*,d,dtype,device)
fft.fftshift(x,/,*,axes) fft.ifftshift(x,/,*,axes)
""".split()

OTHERS = """e inf nan newaxis pi bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float32 float64
complex64 complex128 finfo iinfo __array_api_version__ __array_namespace_info__ isin""".split()

ATTRIBUTES = """dtype device mT ndim shape size T __abs__ __add__ __and__ __array_namespace__ __bool__
__complex__ __dlpack__ __dlpack_device__ __eq__ __float__ __floordiv__ __ge__ __getitem__ __gt__
__index__ __int__ __invert__ __le__ __lshift__ __lt__ __matmul__ __mod__ __mul__ __ne__ __neg__
__or__ __pos__ __pow__ __rshift__ __setitem__ __sub__ __truediv__ __xor__ to_device""".split()


def _signature(function):
    text, place, named = [], False, False
    for parameter in inspect.signature(function).parameters.values():
        kind = parameter.kind
        if place and kind is not parameter.POSITIONAL_ONLY:
            text.append("/")
            place = False
        if kind is parameter.KEYWORD_ONLY and not named:
            if not any(one.startswith("*") for one in text):
                text.append("*")
            named = True
        place |= kind is parameter.POSITIONAL_ONLY
        text.append(("*" if kind is parameter.VAR_POSITIONAL else "") + parameter.name)
    return ",".join(text + ["/"] * place)


@pytest.mark.parametrize("row", FUNCTIONS)
def test_functions_have_their_signatures(row):
    name, parameters = row.rstrip(")").split("(")
    function = hetra
    for part in name.split("."):
        function = getattr(function, part)
    assert _signature(function) == parameters


def test_names_are_there():
    for name in OTHERS:
        assert hasattr(hetra, name), name
    for name in ATTRIBUTES:
        assert hasattr(hetra.Array, name), name
    missing = [name for name in hetra.__all__ if not hasattr(hetra, name)]
    assert not missing
    info = hetra.__array_namespace_info__()
    assert info.default_device() == "cpu" and "cpu" in info.devices()
    assert set(info.dtypes(kind="real floating")) == {"float32", "float64"}
    assert info.default_dtypes()["integral"] == hetra.int64


def test_dtypes():
    assert hetra.isdtype(hetra.int8, "signed integer") and not hetra.isdtype("f4", "integral")
    assert hetra.isdtype(hetra.float32, ("bool", "real floating"))
    assert hetra.can_cast("int8", "int16") and not hetra.can_cast("int16", "int8")
    assert hetra.result_type(hetra.zeros(1, dtype="float32"), 1.0) == "float32"
    assert hetra.result_type("int32", 1.0) == "float64"
    assert hetra.finfo("float32").eps == np.finfo("f4").eps and hetra.iinfo("uint8").max == 255


def test_array_api_compat():
    compat = pytest.importorskip("array_api_compat")
    x = hetra.asarray([[1.0, 2.0], [3.0, 4.0]])
    assert compat.is_array_api_obj(x)
    xp = compat.array_namespace(x)
    assert xp is hetra
    assert compat.device(x) == "cpu" and compat.size(x) == 4
    assert xp.sum(xp.linalg.vector_norm(x, axis=1)).item() == pytest.approx(5**0.5 + 5)


def _elsewhere(program):
    """Runs a program in a process of its own: SciPy looks at its switch when it is imported."""
    environment = {**os.environ, "SCIPY_ARRAY_API": "1"}
    command = [sys.executable, "-c", program + "\nprint('done')"]
    ran = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert ran.stdout.strip() == "done", ran.stderr


def test_scipy():
    pytest.importorskip("scipy")
    _elsewhere("""
import numpy as np, hetra
from scipy import cluster, special, stats
x = np.random.default_rng(0).random((20, 3))
for function in (lambda a: special.logsumexp(a, axis=0), lambda a: special.softmax(a, axis=1),
                 lambda a: cluster.vq.whiten(a), lambda a: stats.variation(a, axis=0),
                 lambda a: stats.zscore(a, axis=0)):
    got = function(hetra.asarray(x))
    assert isinstance(got, hetra.Array), type(got)
    np.testing.assert_allclose(hetra.asnumpy(got), function(x), rtol=1e-10)
""")


def test_scikit_learn():
    pytest.importorskip("sklearn")
    _elsewhere("""
import numpy as np, hetra, sklearn
from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler
x = np.random.default_rng(0).random((30, 4))
with sklearn.config_context(array_api_dispatch=True):
    for scaler in (MinMaxScaler, MaxAbsScaler):
        got = scaler().fit_transform(hetra.asarray(x))
        assert isinstance(got, hetra.Array), scaler
        np.testing.assert_allclose(hetra.asnumpy(got), scaler().fit_transform(x), rtol=1e-10)
""")
