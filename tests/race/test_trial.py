"""One training run: paired, repeatable, honest about its cost."""

import math

import pytest
import torch

from race_tasks import SEEN, tiny
from steepest.race.task import TASKS, load_task
from steepest.race.trial import Setting, require_finite, run_trial
from steepest.results.race import RacedTrial


def _setting(method="momentum", point=(("lr", 0.1), ("momentum", 0.5)), seed=1, steps=12, every=4, task="tiny"):
    return Setting(task, "", None, method, point, seed, steps, every)


def _seen(method, point, seed):
    SEEN.clear()
    run_trial(_setting(method, point, seed), tiny())
    return list(SEEN)


def test_methods_start_from_the_same_weights_and_see_the_same_batches():
    a, b = _seen("sgd", (("lr", 0.1),), 7), _seen("adam", (("lr", 0.01),), 7)
    assert torch.equal(a[0][0], b[0][0])
    assert len(a) == len(b) == 12 and all(torch.equal(x[1], y[1]) for x, y in zip(a, b, strict=True))
    other = _seen("sgd", (("lr", 0.1),), 8)
    assert not torch.equal(a[0][0], other[0][0]) and any(not torch.equal(x[1], y[1]) for x, y in zip(a, other, strict=True))


def test_a_trial_repeats_bit_by_bit_and_leaves_the_random_state():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first, second = (run_trial(_setting(), tiny()) for _ in range(2))
    assert [(e.step, e.value) for e in first.evaluations] == [(e.step, e.value) for e in second.evaluations]
    assert torch.equal(before, torch.get_rng_state())


def test_it_is_gradient_descent():
    SEEN.clear()
    trial = run_trial(_setting("sgd", (("lr", 0.1),)), tiny())
    x = SEEN[0][0].clone()
    for _, batch in SEEN:
        x -= 0.1 * (x - batch.mean(0))
    assert trial.evaluations[-1].value == pytest.approx(float(x.square().sum() / 2), rel=1e-12)
    assert [e.step for e in trial.evaluations] == [0, 4, 8, 12]
    assert all(b.seconds >= a.seconds for a, b in zip(trial.evaluations, trial.evaluations[1:], strict=False))


def test_sharpness_aware_steps_climb_on_the_batch_they_descend_on():
    """SAM as in its paper: g at x, then the gradient at x + rho g / |g| of the same batch, and the step from x along it."""
    pytest.importorskip("pytorch_optimizer")
    SEEN.clear()
    point = (("lr", 0.1), ("momentum", 0.0), ("rho", 0.05))
    trial = run_trial(_setting("sam", point, steps=12, every=4), tiny())
    assert len(SEEN) == 12 and [e.step for e in trial.evaluations] == [0, 4, 8, 12]
    x = SEEN[0][0].clone()
    for (at, batch), (above, again) in zip(SEEN[::2], SEEN[1::2], strict=True):
        assert torch.equal(batch, again) and torch.allclose(at, x, rtol=1e-9)
        gradient = x - batch.mean(0)
        assert torch.allclose(above, x + 0.05 * gradient / gradient.norm(), rtol=1e-9)
        x -= 0.1 * (above - batch.mean(0))
    assert trial.evaluations[-1].value == pytest.approx(float(x.square().sum() / 2), rel=1e-9)


def test_gradients_are_what_counts():
    task = load_task("quadratic")
    trial = run_trial(_setting("lbfgs", (("lr", 1.0),), steps=60, every=10, task="quadratic"), task)
    assert trial.evaluations[-1].step >= 60
    assert len(trial.evaluations) < 9


def test_a_divergence_ends_the_trial():
    trial = run_trial(_setting("sgd", (("lr", 1e6),), steps=500, every=50), tiny())
    assert trial.diverged_at is not None and trial.diverged_at < 500
    assert trial.final == math.inf and math.isfinite(trial.best) and trial.best == trial.evaluations[0].value
    assert trial.steps_to(1e-9) == math.inf
    assert RacedTrial.from_json(trial.to_json()).to_json() == trial.to_json()


def test_the_first_look_at_the_target_counts():
    trial = run_trial(_setting("sgd", (("lr", 0.3),), steps=40, every=2), tiny())
    values = {e.step: e.value for e in trial.evaluations}
    first = trial.steps_to(0.05)
    assert values[first] <= 0.05 and all(v > 0.05 for step, v in values.items() if step < first)


@pytest.mark.parametrize("name", [name for name in TASKS if name != "fashion_cnn"])
def test_every_task_descends(name):
    task = load_task(name)
    require_finite(task, 0)
    trial = run_trial(_setting("adam", (("lr", 0.003),), steps=8, every=8, task=name), task)
    assert trial.diverged_at is None
    assert trial.best < trial.evaluations[0].value


@pytest.mark.shared
def test_fashion(shared):
    if not (shared / "data" / "fashion-mnist").is_dir():
        pytest.skip(f"there is no Fashion-MNIST in {shared / 'data'}")
    task = load_task("fashion_cnn", str(shared / "data"))
    require_finite(task, 0)
    trial = run_trial(_setting("adam", (("lr", 0.003),), steps=30, every=10, task="fashion_cnn"), task)
    assert trial.best < 1.6 and trial.score > 0.4


def test_damaged_images_are_refused(tmp_path):
    from steepest.errors import ModelError
    from steepest.race.data import fashion

    head = b"\x00\x00\x08"
    for part, count in (("train", 2), ("t10k", 1)):
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(head + b"\x01" + count.to_bytes(4, "big") + bytes(count))
        shape = b"".join(n.to_bytes(4, "big") for n in (count, 28, 28))
        (tmp_path / f"{part}-images-idx3-ubyte").write_bytes(head + b"\x03" + shape + bytes([255]) * (784 * count))
    x, y, held, labels = fashion(str(tmp_path))
    assert x.shape == (2, 1, 28, 28) and float(x.min()) == 1.0 and y.tolist() == [0, 0] and len(held) == len(labels) == 1
    images = tmp_path / "train-images-idx3-ubyte"
    images.write_bytes(images.read_bytes()[:-1])
    with pytest.raises(ModelError, match="cut off"):
        fashion(str(tmp_path))
    images.write_bytes(b"PNG")
    with pytest.raises(ModelError, match="not an IDX file"):
        fashion(str(tmp_path))


def test_the_optimum_of_logistic_regression():
    from steepest.race.data import digits
    from steepest.race.tasks.logistic import DECAY, objective, optimum

    value, slack = optimum()
    assert slack < 1e-12
    x, y, _, _ = digits()
    x = x.double()
    # Newton's method, another way to the same number.
    model = torch.nn.Linear(64, 10, dtype=torch.float64)
    w = torch.zeros(650, dtype=torch.float64)
    ones = torch.cat([x, torch.ones(len(x), 1, dtype=torch.float64)], 1)
    target = torch.nn.functional.one_hot(y, 10).double()
    for _ in range(12):
        p = torch.softmax(ones @ w.reshape(10, 65).T, 1)
        gradient = ((p - target).T @ ones / len(x)).flatten() + DECAY * w
        curvature = torch.diag_embed(p) - p.unsqueeze(2) * p.unsqueeze(1)
        hessian = torch.einsum("nij,na,nb->iajb", curvature, ones, ones).reshape(650, 650) / len(x) + DECAY * torch.eye(
            650, dtype=torch.float64
        )
        w -= torch.linalg.solve(hessian, gradient)
    with torch.no_grad():
        model.weight.copy_(w.reshape(10, 65)[:, :64])
        model.bias.copy_(w.reshape(10, 65)[:, 64])
        assert float(objective(model, x, y)) == pytest.approx(value, abs=1e-12)


def test_landscapes_have_their_minima_where_they_say():
    for name in ("rosenbrock", "beale", "saddle"):
        landscape = load_task(name).landscape
        for x, y in landscape.minima:
            point = torch.tensor([x, y], dtype=torch.float64, requires_grad=True)
            (gradient,) = torch.autograd.grad(landscape.function(point[0], point[1]), point)
            assert gradient.abs().max() < 1e-12
