"""The Hessian by products on a kept graph against the dense one."""

import pytest
import torch
from torch import nn

from steepest.errors import UsageError
from steepest.measures.hessian import Hessian, hessian_eigenvalues
from steepest.measures.objective import Objective, apply


def dense(model, loss_fn, batch):
    names = [n for n, _ in model.named_parameters()]
    sizes, shapes = [p.numel() for p in model.parameters()], [p.shape for p in model.parameters()]

    def loss(flat):
        own = {n: v.view(s) for n, v, s in zip(names, flat.split(sizes), shapes, strict=True)}
        return loss_fn(apply(model, own, batch[0]), batch[1])

    start = torch.cat([p.detach().flatten() for p in model.parameters()]).requires_grad_()
    with torch.random.fork_rng():
        (gradient,) = torch.autograd.grad(loss(start), start, create_graph=True)
    return torch.autograd.grad(gradient, start, torch.eye(len(start)).to(start), is_grads_batched=True)[0]


@pytest.mark.parametrize("name", ["mlp", "convnet", "resnet"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extremes_are_those_of_the_dense_hessian(name, dtype, cases):
    model, loss_fn, (x, y) = cases(name, 8 if name == "resnet" else 24)
    for module in model:
        module.train(not isinstance(module, nn.Dropout))
    true = torch.linalg.eigvalsh(dense(model, loss_fn, (x, y)))
    found = hessian_eigenvalues(model.to(dtype), loss_fn, (x.to(dtype), y), largest=2, smallest=1)
    assert found.converged
    expected = torch.stack([true[-1], true[-2], true[0]])
    assert ((found.values - expected).abs() <= 1e-3 * true.abs().max()).all()
    # What a residual promises: an eigenvalue that near.
    slack = found.residuals + 1e-5 * true.abs().max()
    assert ((true - found.values[:, None]).abs().amin(1) <= slack).all()


def test_preconditioned(cases):
    model, loss_fn, batch = cases("mlp")
    scale = torch.rand(sum(p.numel() for p in model.parameters()), dtype=torch.float64) + 0.1
    true = torch.linalg.eigvalsh(scale[:, None] * dense(model, loss_fn, batch) * scale)
    found = hessian_eigenvalues(model, loss_fn, batch, largest=1, smallest=1, scale=scale)
    torch.testing.assert_close(found.values, true[[-1, 0]], rtol=1e-3, atol=1e-6)


def test_dropout_has_one_mask(cases):
    model, loss_fn, batch = cases("convnet")
    torch.manual_seed(5)
    true = torch.linalg.eigvalsh(dense(model, loss_fn, batch))[-1]
    torch.manual_seed(5)
    assert hessian_eigenvalues(model, loss_fn, batch).values.item() == pytest.approx(true.item(), rel=1e-3)


def test_a_quadratic():
    model = nn.Linear(3, 1, bias=False).double()
    x = torch.diag(torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64))
    found = hessian_eigenvalues(model, lambda p, y: 0.5 * (p - y).square().sum(), (x, torch.ones(3, 1).double()), largest=3)
    torch.testing.assert_close(found.values, torch.tensor([9.0, 4.0, 1.0], dtype=torch.float64))
    flat = hessian_eigenvalues(model, lambda p, y: p.sum(), (x, None))
    assert flat.values.item() == 0.0


def test_a_warm_start_saves_products_and_still_finds_what_has_grown(cases):
    model, loss_fn, batch = cases("mlp")
    cold = hessian_eigenvalues(model, loss_fn, batch, largest=2)
    single = hessian_eigenvalues(model, loss_fn, batch)
    assert hessian_eigenvalues(model, loss_fn, batch, start=single.vectors[0]).products <= single.products
    # From the second eigenvector alone the first would never be found.
    again = hessian_eigenvalues(model, loss_fn, batch, start=cold.vectors[1])
    assert again.values.item() == pytest.approx(cold.values[0].item(), rel=1e-3)


def test_on_the_graph_of_a_run_that_goes_on(cases):
    model, loss_fn, batch = cases("convnet")
    torch.manual_seed(1)
    loss_fn(model(batch[0]), batch[1]).backward()
    expected = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    torch.manual_seed(1)
    loss = loss_fn(model(batch[0]), batch[1])
    Hessian.of(loss, tuple(model.parameters())).extremes(steps=4)
    loss.backward()
    assert all(torch.equal(g, p.grad) for g, p in zip(expected, model.parameters(), strict=True))


def test_attention_and_recurrence_have_second_derivatives():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True).double().eval()
    batch = torch.randn(2, 3, 4, dtype=torch.float64), None
    found = hessian_eigenvalues(layer, lambda o, _: o.pow(4).mean(), batch)
    true = torch.linalg.eigvalsh(dense_plain(layer, batch))[-1]
    assert found.values.item() == pytest.approx(true.item(), rel=1e-3)
    hessian_eigenvalues(nn.LSTM(4, 3).double(), lambda o, _: o[0].square().mean(), batch)


def dense_plain(model, batch):
    from steepest.measures.objective import twice_differentiable

    with twice_differentiable():
        return dense(model, lambda o, _: o.pow(4).mean(), batch)


def test_what_has_no_second_derivative_says_so():
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x.square()

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, gradient):
            return 2 * ctx.saved_tensors[0] * gradient

    with pytest.raises(UsageError, match="no second derivative"):
        hessian_eigenvalues(nn.Linear(2, 2), lambda o, _: Once.apply(o).square().sum(), (torch.ones(1, 2), None))


def test_a_loss_that_is_no_number_is_refused(cases):
    model, _, batch = cases("mlp")
    with pytest.raises(UsageError, match="reduce it"):
        Objective(model, lambda p, y: p, batch).loss()
