"""`torch.compile(.., backend="hetra")`. For these tests, `pip install torch onnxscript` first."""

import gc
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is large: it is installed by hand")
pytest.importorskip("onnxscript", reason="onnxscript, which torch exports by, is installed by hand")

import hetra  # noqa: E402
import hetra.torch  # noqa: E402

nn = torch.nn


@pytest.fixture(autouse=True)
def alone():
    torch.manual_seed(0)
    torch._dynamo.reset()
    hetra.torch._told.clear()
    with torch.no_grad():
        yield


def compiled(function, dynamic=None, **options):
    options = {"strict": True, **options}
    return torch.compile(function, backend="hetra", dynamic=dynamic, options=options)


def same(got, wanted):
    for one, other in zip(got, wanted, strict=True):
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def mlp():
    return nn.Sequential(nn.Linear(6, 16), nn.GELU(), nn.LayerNorm(16), nn.Linear(16, 3)).eval()


def convolutions():
    norm = nn.BatchNorm2d(8)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    first = nn.Conv2d(3, 8, 3, padding=1), norm, nn.ReLU(), nn.MaxPool2d(2)
    second = nn.Conv2d(8, 4, 3), nn.Flatten(), nn.Dropout(), nn.Linear(144, 5)
    return nn.Sequential(*first, *second).eval()


@pytest.mark.parametrize("make, shape", [(mlp, (4, 6)), (convolutions, (2, 3, 16, 16))])
def test_models_on_every_device(make, shape, device):
    model, x = make(), torch.randn(shape)
    fast = compiled(model, device=device)
    for _ in range(3):
        same([fast(x)], [model(x)])
    x = x.transpose(-1, -2).contiguous().transpose(-1, -2)
    same([fast(x)], [model(x)])


def test_open_shapes():
    model = convolutions()
    fast = compiled(model, dynamic=True)
    for batch in (2, 5, 3, 5):
        x = torch.randn(batch, 3, 16, 16)
        same([fast(x)], [model(x)])

    def blocks(x, y):
        return x.view(-1, 2, x.shape[1]).sum(1) * y[: x.shape[0] // 2], x.shape[0] * 2

    fast = compiled(blocks, dynamic=True)
    for rows, columns in ((4, 3), (10, 3), (6, 5)):
        x, y = torch.randn(rows, columns), torch.randn(9, columns)
        got, number = fast(x, y)
        same([got], [blocks(x, y)[0]])
        assert number == 2 * rows


def test_numbers_are_part_of_a_model():
    fast = compiled(lambda x, n: x * n)
    for n in (2, 3, 4, 2.5, 3.5, 3):
        same([fast(torch.ones(2, 3), n)], [torch.ones(2, 3) * n])
    fast = compiled(lambda x, n: x * n, strict=False)
    with pytest.warns(RuntimeWarning, match="more than 8 models"):
        for n in range(2, 16):
            same([fast(torch.ones(2, 3), n)], [torch.ones(2, 3) * n])


def test_dtypes_and_several_outputs():
    def several(x, index, mask):
        rows = x[index]
        more = [index + 1, x.argmax(1), ~mask, x.masked_fill(mask, 0), None, 3]
        return {"rows": rows, "more": more}

    args = torch.randn(5, 4), torch.tensor([0, 3, 2]), torch.rand(5, 4) > 0.5
    got, wanted = compiled(several)(*args), several(*args)
    same([got["rows"], *got["more"][:4]], [wanted["rows"], *wanted["more"][:4]])
    assert got["more"][4:] == [None, 3]
    for dtype in (torch.float64, torch.float16, torch.bfloat16, torch.int32):
        x = torch.arange(6).to(dtype)
        same([compiled(lambda x: x * 2 + 1)(x)], [x * 2 + 1])


@pytest.mark.parametrize("dynamic", [None, True])
def test_memory_is_shared_as_in_pytorch(dynamic):
    def views(x):
        y = x * 2
        return y, y.view(-1), x.view(-1), y[1:], x.clone(), torch.ones(3)

    fast = compiled(views, dynamic=dynamic)
    for rows in (4, 4, 4, 7):
        x = torch.randn(rows + 2, 6)[2:]
        before = x.clone()
        got = fast(x)
        same(got, views(x))
        got[1].fill_(7)
        got[4].zero_()
        got[5].zero_()
        assert (got[0] == 7).all() and (got[3] == 7).all() and torch.equal(x, before)
        got[2].zero_()
        assert (x == 0).all()


@pytest.mark.parametrize("dynamic", [None, True])
def test_writes_to_inputs(dynamic):
    def writes(x, y):
        x.add_(1)
        y[0] = 3
        return x * y

    fast = compiled(writes, dynamic=dynamic)
    for _ in range(3):
        args = [torch.randn(3, 4), torch.randn(3, 4)]
        copies = [one.clone() for one in args]
        same([fast(*args), *args], [writes(*copies), *copies])
    x = torch.randn(4, 4)
    copy = x.clone()
    with pytest.warns(RuntimeWarning, match="two of its inputs share"):
        got = compiled(writes, strict=False)(x, x[1])
    same([got, x], [writes(copy, copy[1]), copy])


def test_graph_breaks():
    def broken(x):
        y = torch.sin(x)
        torch._dynamo.graph_break()
        return torch.cos(y)

    x = torch.randn(3, 4)
    same([compiled(broken)(x)], [broken(x)])


def test_what_has_no_onnx_form_stays_in_pytorch():
    def function(x):
        return torch.special.bessel_j0(x)

    x = torch.randn(3)
    fast = compiled(function, strict=False)
    with pytest.warns(RuntimeWarning, match="no ONNX form of .*bessel_j0") as told:
        for _ in range(3):
            same([fast(x)], [function(x)])
    assert len([one for one in told if "hetra" in str(one.message)]) == 1
    fast = compiled(function)
    for _ in range(2):
        with pytest.raises(hetra.ModelError, match="bessel_j0"):
            fast(x)


def test_wrong_inputs_are_pytorchs_errors():
    def rows(x, index):
        return x[index]

    fast, x = compiled(rows, strict=False), torch.randn(3, 4)
    with pytest.raises(IndexError, match="out of"):
        fast(x, torch.tensor([0, 5]))
    graphs = [one for one in gc.get_objects() if type(one) is hetra.torch._Graph]
    same([fast(x, torch.tensor([0, 2]))], [x[[0, 2]]])
    assert graphs and not any(one.left for one in graphs)


@pytest.mark.parametrize("module", [nn.Dropout(), nn.BatchNorm1d(4)])
def test_what_would_be_something_else_stays_in_pytorch(module):
    x = torch.randn(64, 4)
    with pytest.warns(RuntimeWarning, match="dropout|batch_norm"):
        torch.manual_seed(1)
        got = compiled(module.train(), strict=False)(x)
    torch.manual_seed(1)
    same([got], [module(x)])


def test_training_stays_in_pytorch():
    model, x = mlp(), torch.randn(8, 6)
    other = mlp()
    other.load_state_dict(model.state_dict())
    fast = compiled(model)
    optimisers = [torch.optim.SGD(one.parameters(), 0.1) for one in (model, other)]
    for step in range(3):
        with torch.enable_grad():
            for one, optimiser in zip((fast, other), optimisers):
                optimiser.zero_grad()
                if one is fast and step == 0:
                    with pytest.warns(RuntimeWarning, match="gradients"):
                        loss = one(x).square().mean()
                else:
                    loss = one(x).square().mean()
                loss.backward()
                optimiser.step()
        # Between the steps the model is Hetra's, with the parameters of now.
        same([fast(x), *model.parameters()], [other(x), *other.parameters()])


def test_parameters_are_watched():
    model, x = nn.Linear(6, 3).eval(), torch.randn(4, 6)
    fast = compiled(model)
    for _ in range(3):
        for change in (
            lambda: model.weight.mul_(2),
            lambda: setattr(model, "weight", nn.Parameter(torch.randn(3, 6))),
            lambda: setattr(model.weight, "data", torch.randn(3, 6)),
            lambda: model.load_state_dict(nn.Linear(6, 3).state_dict()),
            lambda: None,
        ):
            change()
            same([fast(x)], [model(x)])
    fast = compiled(model, freeze=False)
    fast(x)
    model.weight.data.mul_(2)
    same([fast(x)], [model(x)])


def test_inference_mode():
    with torch.inference_mode():
        model, x = nn.Linear(6, 3).eval(), torch.randn(4, 6)
        fast = compiled(model)
        for _ in range(3):
            model.weight.mul_(2)
            same([fast(x)], [model(x)])


def test_wrong_options_are_errors():
    with pytest.raises(Exception, match="no option `devise`: there are device, strict"):
        compiled(mlp(), devise="cpu")(torch.randn(4, 6))
    with pytest.raises(Exception, match="nonsense"):
        compiled(mlp(), device="nonsense")(torch.randn(4, 6))


@pytest.mark.parametrize("name", ["torch", "onnxscript"])
def test_what_is_not_installed_is_said(name):
    code = f"""
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name == {name!r}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Hidden())
import hetra.torch
hetra.torch.backend(None, [])
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.returncode == 1 and f"pip install {name}" in ran.stderr
