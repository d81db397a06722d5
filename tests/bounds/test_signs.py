"""Branching over activation patterns: the constant itself, found by hand, degenerate networks, and what the checker refuses."""

import base64
import copy
import math

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from steepest import ops
from steepest.bounds import LipSDP, Signs
from steepest.bounds.signs.forms import Network
from steepest.bounds.signs.multipliers import Inequality, tighten
from steepest.capture.builder import Builder
from steepest.errors import UnsupportedOperatorError
from steepest.numerics.deadline import Deadline
from steepest.numerics.feasibility import rooms
from steepest.proofs.certificate import write_certificate
from steepest.proofs.check import check
from steepest.results import Domain

NORMS = [1.0, 2.0, math.inf]


def weights(sizes, seed):
    generator = torch.Generator().manual_seed(seed)
    pairs = zip(sizes[1:], sizes[:-1], strict=True)
    return [tuple(torch.randn(m, *rest, generator=generator, dtype=torch.float64) for rest in ((n,), ())) for m, n in pairs]


def network(layers, activation=lambda b, x: b.relu(x)):
    b = Builder()
    x = b.input((1, layers[0][0].shape[1]))
    for k, (weight, bias) in enumerate(layers):
        x = b.dense(x if k == 0 else activation(b, x), weight, bias)
    return b.finish(x)


FOUND = {}


def by_hand(layers, lo, hi, norm, kinks=(0.0,), slopes=(0.0, 1.0), offsets=(0.0, 0.0)):
    """The largest norm over all patterns whose region has an interior, found neuron by neuron with linear programs; once for all norms."""
    key = (*(t.numpy().tobytes() for pair in layers for t in pair), lo.tobytes(), hi.tobytes(), kinks, slopes, offsets)
    if key not in FOUND:
        FOUND[key] = jacobians(layers, lo, hi, kinks, slopes, offsets)
    return max(np.linalg.norm(a, norm) for a in FOUND[key])


def jacobians(layers, lo, hi, kinks, slopes, offsets):
    n = layers[0][0].shape[1]
    layers = [(w.numpy(), b.numpy()) for w, b in layers]
    found = []

    def inside(rows, right):
        a = np.concatenate([np.array(rows).reshape(-1, n), np.eye(n), -np.eye(n)])
        length = np.linalg.norm(a, axis=1)
        best = linprog([0.0] * n + [-1.0], np.c_[a, length], np.concatenate([right, hi, -lo]), bounds=[(None, None)] * n + [(None, 1.0)])
        return best.status == 0 and -best.fun > 1e-9

    def descend(k, done, jacobian, constant, rows, right):
        weight, bias = layers[k]
        a, c = weight @ jacobian, weight @ constant + bias
        if k == len(layers) - 1:
            found.append(a)
            return
        if len(done) == len(a):
            slope, shift = np.array([slopes[p] for p in done]), np.array([offsets[p] for p in done])
            descend(k + 1, [], slope[:, None] * a, slope * c + shift, rows, right)
            return
        i = len(done)
        for piece in range(len(slopes)):
            extra, at = [], []
            if piece > 0:
                extra, at = [*extra, -a[i]], [*at, c[i] - kinks[piece - 1]]
            if piece < len(kinks):
                extra, at = [*extra, a[i]], [*at, kinks[piece] - c[i]]
            if inside([*rows, *extra], [*right, *at]):
                descend(k, [*done, piece], jacobian, constant, [*rows, *extra], [*right, *at])

    descend(0, [], np.eye(n), np.zeros(n), [], [])
    return found


def proven(graph, domain, norm, **options):
    upper = Signs(deadline=Deadline(), **options).bound(graph, domain, norm)
    record = graph.record()
    certificate = write_certificate(record, output=None, norm=norm, domain=domain, upper=upper, lower=None)
    verdict = check(certificate, record)
    assert verdict.holds, verdict.reasons
    assert verdict.upper == upper.value
    return upper, certificate, record


def box(n, lo, hi):
    return Domain("box", lo=np.full((1, n), float(lo)), hi=np.full((1, n), float(hi)))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("sizes", "seed"), [((2, 8, 6, 2), 0), ((3, 6, 5, 2), 1), ((2, 5, 4, 4, 3), 2), ((2, 16, 1), 3), ((5, 7, 2), 4)])
def test_it_is_the_largest_norm_of_a_pattern_that_occurs(sizes, seed, norm):
    layers = weights(sizes, seed)
    exact = by_hand(layers, np.full(sizes[0], -1.0), np.full(sizes[0], 1.5), norm)
    upper, _, _ = proven(network(layers), box(sizes[0], -1, 1.5), norm)
    assert exact * (1 - 1e-12) <= upper.value <= exact * (1 + 4e-6)
    assert upper.gap < 1e-5


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(
    ("activation", "kinks", "slopes", "offsets"),
    [
        (lambda b, x: b.relu(x, 0.1), (0.0,), (0.1, 1.0), (0.0, 0.0)),
        (lambda b, x: b.relu(x, -1.0), (0.0,), (-1.0, 1.0), (0.0, 0.0)),
        (lambda b, x: b.relu(x, 1.0), (0.0,), (1.0, 1.0), (0.0, 0.0)),
        (lambda b, x: b.clamp(x, -0.3, 0.7), (-0.3, 0.7), (0.0, 1.0, 0.0), (-0.3, 0.0, 0.7)),
        (lambda b, x: b.clamp(x, None, 0.5), (0.5,), (1.0, 0.0), (0.0, 0.5)),
    ],
    ids=["leaky", "absolute", "identity", "clamp", "minimum"],
)
def test_every_activation_with_kinks_is_told_apart(activation, kinks, slopes, offsets, norm):
    layers = weights((2, 6, 4, 2), 5)
    exact = by_hand(layers, np.full(2, -1.0), np.full(2, 1.0), norm, kinks, slopes, offsets)
    upper, _, _ = proven(network(layers, activation), box(2, -1, 1), norm)
    assert exact * (1 - 1e-12) <= upper.value <= exact * (1 + 4e-6)


def test_branches_and_mixed_activations():
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    b = Builder()
    x = b.input((1, 2))
    first = b.relu(b.dense(x, draw(4, 2), draw(4)))
    second = b.clamp(b.dense(first, draw(4, 4), draw(4)), -1.0, 1.0)
    joined = b.concat([b.add(first, second), b.scale(x, 2.0)], 1)
    graph = b.finish(b.dense(b.relu(joined, 0.2), draw(2, 6), draw(2)))
    points = 4 * torch.rand(50_000, 1, 2, generator=generator, dtype=torch.float64) - 2
    rows = torch.func.vmap(torch.func.jacrev(lambda y: graph.evaluate(y[None]).flatten()))(points[:, 0][:, None])
    rows = rows.reshape(len(points), 2, 2)
    for norm in NORMS:
        upper, _, _ = proven(graph, box(2, -2, 2), norm)
        seen = torch.linalg.matrix_norm(rows, norm).max().item()
        assert seen * (1 - 1e-12) <= upper.value <= 1.05 * seen
        assert upper.gap < 1e-5


@pytest.mark.parametrize("norm", NORMS)
def test_stopped_early_the_bound_holds_and_says_how_far_it_may_be_off(norm):
    layers = weights((3, 7, 5, 2), 6)
    exact = by_hand(layers, np.full(3, -2.0), np.full(3, 2.0), norm)
    last = math.inf
    for nodes, batch in ((8, 2), (100, 4), (100_000, 64)):
        upper, _, _ = proven(network(layers), box(3, -2, 2), norm, nodes=nodes, batch=batch)
        assert exact * (1 - 1e-12) <= upper.value <= last
        assert upper.value / math.sqrt(1 + upper.gap) <= exact * (1 + 1e-9)
        last = upper.value
    assert last <= exact * (1 + 4e-6)


def degenerate():
    layers = weights((2, 6, 4, 1), 7)
    (first, bias), (second, lower), last = layers
    twice = (torch.cat([first[:3], first[:3]]), torch.cat([bias[:3], bias[:3]]))
    opposite = (torch.cat([first[:3], -first[:3]]), torch.cat([bias[:3], -bias[:3]]))
    double = (torch.cat([first[:3], -2 * first[:3]]), torch.cat([bias[:3], -2 * bias[:3]]))
    zero = first.clone()
    zero[::2] = 0.0
    silent = bias.clone()
    silent[0] = 0.0
    corner = (first, -(first @ torch.ones(2, dtype=torch.float64)))
    wall = (
        torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0], [1.0, 1.0], [-1.0, -1.0]]).double(),
        torch.tensor([-1.0, -1.0, 1.0, 1.0, 0.0, 0.0]).double(),
    )
    return {
        "neurons twice": [twice, (second, lower), last],
        "opposite neurons": [opposite, (second, lower), last],
        "opposite neurons of other length": [double, (second, lower), last],
        "rows of zeros": [(zero, silent), (second, lower), last],
        "kinks through a corner": [corner, (second, lower), last],
        "kinks on the walls": [wall, (second, lower), last],
        "no biases": [(first, 0 * bias), (second, 0 * lower), last],
        "dead second layer": [(first, bias), (second, 0 * lower - 100.0), last],
        "nothing at all": [(first, bias), (0 * second, lower), last],
        "huge": [(1e8 * first, bias), (1e-6 * second, lower), last],
    }


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", list(degenerate()))
def test_degenerate_networks_are_never_bounded_from_below_the_constant(name, norm):
    layers = degenerate()[name]
    exact = by_hand(layers, np.full(2, -1.0), np.full(2, 1.0), norm)
    upper, _, _ = proven(network(layers), box(2, -1, 1), norm, nodes=1000)
    assert upper.value >= exact * (1 - 1e-12)
    # What lies on a hyperplane alone may be left; it may never be called exact where it is not.
    assert exact > 0 or upper.value < 1e-8
    assert exact == 0 or upper.gap >= (upper.value / exact) ** 2 - 1 - 1e-9


@pytest.mark.parametrize("norm", NORMS)
def test_boxes_without_room(norm):
    layers = weights((3, 6, 4, 2), 8)
    graph = network(layers)
    point = Domain("box", lo=np.array([[0.1, 0.2, 0.3]]), hi=np.array([[0.1, 0.2, 0.3]]))
    assert proven(graph, point, norm)[0].value == 0.0
    flat = Domain("box", lo=np.array([[-1.0, 0.2, -1.0]]), hi=np.array([[1.0, 0.2, 1.0]]))
    upper, _, _ = proven(graph, flat, norm)
    (first, bias), *rest = layers
    exact = by_hand([(first[:, [0, 2]], bias + 0.2 * first[:, 1]), *rest], np.full(2, -1.0), np.full(2, 1.0), norm)
    assert exact * (1 - 1e-9) <= upper.value <= exact * (1 + 4e-6)
    thin = Domain("box", lo=np.array([[0.1, 0.2, 0.3]]), hi=np.nextafter(np.array([[0.1, 0.2, 0.3]]), 1.0))
    upper, _, _ = proven(graph, thin, norm)
    state = Network(graph, *(torch.from_numpy(e.flatten()) for e in (point.lo, thin.hi))).state_at(torch.tensor([[0.1, 0.2, 0.3]]).double())
    jacobian = Network(graph, *(torch.from_numpy(e.flatten()) for e in (point.lo, thin.hi))).forms(state, state).c[0]
    assert upper.value >= torch.linalg.matrix_norm(jacobian, norm).item() * (1 - 1e-9)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("biases", [True, False])
@pytest.mark.parametrize("sizes", [(2, 6, 4, 2), (4, 6, 4, 1), (3, 4, 4, 3, 2)])
def test_over_all_inputs_it_ends_as_well(sizes, biases, norm):
    layers = [(w, b if biases else 0 * b) for w, b in weights(sizes, 9)]
    n = sizes[0]
    exact = by_hand(layers, np.full(n, -1e3), np.full(n, 1e3), norm)
    upper, _, _ = proven(network(layers), Domain("all"), norm, nodes=4000)
    assert exact * (1 - 1e-12) <= upper.value <= exact * (1 + 4e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_over_half_spaces_it_holds(norm):
    layers = weights((2, 6, 4, 2), 9)
    half = Domain("box", lo=np.array([[-1.0, -np.inf]]), hi=np.array([[np.inf, 2.0]]))
    exact = by_hand(layers, np.array([-1.0, -1e4]), np.array([1e4, 2.0]), norm)
    upper, _, _ = proven(network(layers), half, norm, nodes=2000)
    assert exact * (1 - 1e-12) <= upper.value <= 1.2 * exact
    strip = Domain("box", lo=np.array([[-1.0, -np.inf]]), hi=np.array([[1.0, np.inf]]))
    exact = by_hand(layers, np.array([-1.0, -1e4]), np.array([1.0, 1e4]), norm)
    upper, _, _ = proven(network(layers), strip, norm, nodes=2000)
    assert exact * (1 - 1e-12) <= upper.value <= 1.2 * exact


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", list(degenerate()))
def test_degenerate_networks_over_all_inputs(name, norm):
    layers = degenerate()[name]
    exact = by_hand(layers, np.full(2, -1e3), np.full(2, 1e3), norm)
    upper, _, _ = proven(network(layers), Domain("all"), norm, nodes=600)
    assert upper.value >= exact * (1 - 1e-12)
    assert exact == 0 or upper.gap >= (upper.value / exact) ** 2 - 1 - 1e-9


def test_what_reads_nothing_is_on_both_sides_of_its_kink():
    """Neurons that read zero everywhere: the pattern on either side occurs, and equality in what they say empties nothing."""
    first = (torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]]).double(), torch.zeros(3).double())
    second = (torch.tensor([[1.0, 1.0, 1.0], [0.0, -1.0, 0.0], [-1.0, 2.0, 1.0]]).double(), torch.zeros(3).double())
    last = (torch.tensor([[3.0, 1.0, -2.0]]).double(), torch.zeros(1).double())
    for domain in (Domain("all"), box(2, -1, 1)):
        upper, _, _ = proven(network([first, second, last]), domain, 2.0)
        # f = 3 (x+ + y+) - 2 (y+ - x+)+ has the gradients (3, 3) and (5, 1).
        assert upper.value == pytest.approx(math.sqrt(26), rel=4e-6)


@pytest.mark.parametrize("seed", [1, 7, 13, 15, 39, 59, 68])
def test_weights_that_cancel_are_proven_as_well(seed):
    """Whole numbers, branches that add to themselves, kinks that meet: what is zero by chance is not zero for certain."""
    random = np.random.default_rng(seed)
    n = int(random.integers(1, 4))
    sizes = [n, *random.integers(1, 6, size=random.integers(1, 4)).tolist(), int(random.integers(1, 3))]
    b = Builder()
    x = b.input((1, n))
    for k, (m, q) in enumerate(zip(sizes[1:], sizes[:-1], strict=True)):
        weight = torch.from_numpy(random.integers(-1, 2, size=(m, q)).astype(float) * random.choice([1.0, 0.5, 2.0]))
        bias = torch.from_numpy(random.integers(-1, 2, size=m).astype(float) * (random.random() < 0.6))
        if k:
            kind = int(random.integers(0, 4))
            x = b.clamp(x, -1.0, 1.0) if kind == 3 else b.relu(x, (0.0, -1.0, 0.5)[kind])
        x = b.dense(x, weight, bias)
        if k and random.random() < 0.3:
            x = b.add(x, b.relu(x))
    graph = b.finish(x)
    points = 20 * torch.from_numpy(random.random((3000, n))) - 10
    rows = torch.func.vmap(torch.func.jacrev(lambda y: graph.evaluate(y[None]).flatten()))(points[:, None]).reshape(len(points), -1, n)
    for norm in NORMS:
        upper, _, _ = proven(graph, Domain("all"), norm, nodes=200)
        assert upper.value >= torch.linalg.matrix_norm(rows, norm).max().item() * (1 - 1e-9)


def test_others_are_refused_by_name_and_large_ones_left_out():
    b = Builder()
    x = b.input((1, 2))
    graph = b.finish(b.unary(ops.Tanh, x))
    assert not Signs().applies(graph, Domain("all"))
    with pytest.raises(UnsupportedOperatorError, match="tanh"):
        Signs().bound(graph, Domain("all"), 2.0)
    graph = network(weights((2, 40, 1), 0))
    assert Signs().applies(graph, Domain("all"))
    assert not Signs().applies(graph, Domain("ball", centre=np.zeros((1, 2)), radius=1.0, norm=2.0))
    upper = Signs(neurons=30).bound(graph, Domain("all"), 2.0)
    assert upper.value == math.inf
    assert "more than 30" in upper.remark


def test_rooms_agree_with_a_solver():
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(60, 12, 4, generator=generator, dtype=torch.float64)
    b = torch.randn(60, 12, generator=generator, dtype=torch.float64) * 0.5 + torch.linspace(-0.2, 0.6, 60, dtype=torch.float64)[:, None]
    lo, hi = torch.full((4,), -1.0, dtype=torch.float64), torch.tensor([1.0, 1.0, 2.0, 30.0], dtype=torch.float64)
    found = rooms(a, b, lo, hi)
    kinds = set()
    for i in range(60):
        rows = np.concatenate([a[i].numpy(), np.eye(4), -np.eye(4)])
        right = np.concatenate([b[i].numpy(), hi.numpy(), -lo.numpy()])
        best = -linprog([0, 0, 0, 0, -1], np.c_[rows, np.linalg.norm(rows, axis=1)], right, bounds=[(None, None)] * 5).fun
        kinds.add(best > 0)
        assert bool(found.empty[i]) == (best < 0)
        assert (found.depth[i] > 0) == (best > 0)
        if best > 0:
            assert (rows @ found.x[i].numpy() < right).all()
        else:
            y = found.y[i].numpy()
            row = y @ a[i].numpy()
            assert (y >= 0).all()
            assert np.where(row > 0, row * lo.numpy(), row * hi.numpy()).sum() > y @ b[i].numpy()
    assert kinds == {True, False}


@pytest.mark.parametrize("norm", NORMS)
def test_multipliers_are_feasible_and_as_good_as_those_of_the_other_interior_point(norm):
    layers = weights((3, 5, 4, 2), 10)
    graph = network(layers)
    net = Network(graph, torch.full((3,), -1.0).double(), torch.ones(3).double())
    low, high = torch.zeros(1, net.count, dtype=torch.int8), torch.ones(1, net.count, dtype=torch.int8)
    problem = Inequality.of(net.forms(low, high), norm, torch.zeros(1, dtype=torch.int64))
    value, w, t = tighten(problem, problem.start(), 60)
    assert torch.linalg.eigvalsh(problem.matrix(w, t))[0, 0] >= -1e-9
    assert value.item() == pytest.approx(w.sum().item())
    if norm == 2.0:
        reference = LipSDP(deadline=Deadline()).bound(graph, Domain("all"), 2.0).value
        assert math.sqrt(value.item()) == pytest.approx(reference, rel=1e-4)
    else:
        # In linf and l1 no better than any pattern, and no worse than what begins.
        patterns = torch.cartesian_prod(*[torch.arange(2, dtype=torch.int8)] * net.count)
        rows = net.forms(patterns, patterns).c
        largest = (rows[:, 0] if norm == math.inf else rows[:, :, 0]).abs().sum(1).max().item()
        assert largest * (1 - 1e-9) <= math.sqrt(value.item()) <= math.sqrt(problem.least(problem.start()).sum().item())


def changed(certificate, name, f):
    copied = copy.deepcopy(certificate)
    entry = copied["upper"]["patterns"][name]
    array = f(np.frombuffer(base64.b64decode(entry["base64"]), dtype=entry["dtype"]).reshape(entry["shape"]).copy())
    entry["base64"], entry["shape"] = base64.b64encode(np.ascontiguousarray(array).tobytes()).decode(), list(array.shape)
    return copied


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("everywhere", [False, True])
def test_the_checker_refuses_what_is_not_the_argument(everywhere, norm):
    graph = network(weights((2, 8, 5, 2), 11))
    upper, certificate, record = proven(graph, Domain("all") if everywhere else box(2, -1, 1), norm)
    cut = upper.patterns.cut
    assert (cut == -1).sum() > 1 and (cut <= -2).sum() > 1 and (cut >= 0).sum() > 2
    first_empty, inner, leaf = (int(np.flatnonzero(test)[0]) for test in (cut <= -2, cut > 0, cut == -1))

    def at(place, value):
        def change(array):
            array[place] = value
            return array

        return change

    narrow = upper.patterns.first.copy()
    narrow[1, np.flatnonzero(narrow[1] > narrow[0])[0]] = 0
    wrong = {
        "fewer pieces to begin with": changed(certificate, "first", lambda _: narrow),
        "pieces that are not there": changed(certificate, "first", lambda a: a + 1),
        "a cut at another neuron": changed(certificate, "cut", at(inner, (cut[inner] + 1) % 13)),
        "a cut that is no kink": changed(certificate, "cut", at(inner, 10**6)),
        "a leaf with another base": changed(certificate, "cut", at(leaf, -3)),
        "an empty leaf with a base that is not there": changed(certificate, "cut", at(first_empty, -9)),
        "a leaf called empty": changed(certificate, "cut", at(leaf, -2)),
        "an empty leaf called bounded": changed(certificate, "cut", at(first_empty, -1)),
        "a tree that ends early": changed(certificate, "cut", lambda a: a[:-1]),
        "a tree with more": changed(certificate, "cut", lambda a: np.append(a, -1)),
        "multipliers of another leaf": changed(certificate, "chosen", lambda a: a[::-1]),
        "a leaf without multipliers": changed(certificate, "chosen", lambda a: a[:-1]),
        "multipliers that are not there": changed(certificate, "chosen", at(0, 10**6)),
        "no multipliers": changed(certificate, "multipliers", lambda a: 0 * a),
        "large multipliers": changed(certificate, "multipliers", lambda a: 100 * a),
        "negative multipliers": changed(certificate, "multipliers", lambda a: -a),
        "infinite multipliers": changed(certificate, "multipliers", lambda a: a + np.inf),
        "constraints with other neurons": changed(certificate, "codes", lambda a: (a + 2) % 26),
        "constraints turned round": changed(certificate, "codes", lambda a: a ^ 1),
        "constraints that are not there": changed(certificate, "codes", at(0, 10**9)),
        "constraints below all": changed(certificate, "codes", at(0, -2)),
        "no shares": changed(certificate, "shares", lambda a: 0 * a),
        "negative shares": changed(certificate, "shares", lambda a: -a),
        "equal shares": changed(certificate, "shares", lambda a: np.ones_like(a)),
        "counts that do not fit": changed(certificate, "counts", at(0, 10**6)),
        "a missing count": changed(certificate, "counts", lambda a: a[:-1]),
        "text for numbers": changed(certificate, "cut", lambda a: a.astype(float)),
    }
    if norm != 2.0:
        wrong["no weights"] = changed(certificate, "weights", lambda a: 0 * a)
        wrong["weights that add up to more"] = changed(certificate, "weights", lambda a: 1.001 * a)
        wrong["weights of other inputs"] = changed(certificate, "weights", lambda a: a[:, ::-1])
    lower = copy.deepcopy(certificate)
    lower["upper"]["bound"] = upper.value * (1 - 4e-6)
    wrong["a lower bound"] = lower
    missing = copy.deepcopy(certificate)
    del missing["upper"]["patterns"]["codes"]
    wrong["a missing part"] = missing
    if everywhere:
        # Of shares the first are solved for, whatever they are.
        for name in ("no shares", "equal shares", "negative shares"):
            del wrong[name]
        wrong["constraints in another order"] = changed(certificate, "codes", lambda a: a[::-1])
    else:
        wider = copy.deepcopy(certificate)
        wider["domain"] = box(2, -1, 1.5).to_json()
        wrong["another domain"] = wider
    for name, content in wrong.items():
        verdict = check(content, record)
        assert not verdict.holds, name
        assert verdict.upper == math.inf or verdict.upper >= upper.value, name


def test_the_checker_takes_no_argument_over_other_operators():
    graph = network(weights((2, 6, 2), 12))
    _, certificate, _ = proven(graph, box(2, -1, 1), 2.0)
    b = Builder()
    x = b.input((1, 2))
    other = b.finish(b.unary(ops.Tanh, x)).record()
    content = copy.deepcopy(certificate)
    content["network"]["digest"] = other.digest
    verdict = check(content, other)
    assert not verdict.holds
    assert any("tanh" in reason for reason in verdict.reasons)


def test_no_pattern_by_hand_is_missed():
    """All patterns of a wide layer, without any program: those of many points."""
    layers = weights((2, 15, 1), 13)
    (first, bias), (last, _) = layers
    points = 4 * torch.rand(400_000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 2
    patterns = torch.unique((points @ first.T + bias > 0), dim=0).double()
    seen = (patterns * last) @ first
    for norm, of in zip(NORMS, (math.inf, 2.0, 1.0), strict=True):
        upper, _, _ = proven(network(layers), box(2, -2, 2), norm)
        assert upper.value == pytest.approx(torch.linalg.vector_norm(seen, of, dim=1).max().item(), rel=4e-6)


def test_the_same_seed_gives_the_same_tree():
    graph = network(weights((3, 8, 4, 2), 14))
    a, b = (Signs(deadline=Deadline()).bound(graph, box(3, -1, 1), 2.0) for _ in (0, 1))
    assert a.value == b.value
    for name in a.patterns.__dataclass_fields__:
        assert np.array_equal(getattr(a.patterns, name), getattr(b.patterns, name))
