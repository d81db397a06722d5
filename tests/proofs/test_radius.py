"""The checker proves honest radii and refuses every false one."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from cases import build
from random_graphs import random_graph
from steepest.bounds import Product
from steepest.capture.builder import Builder
from steepest.proofs.certificate import RadiusClaim, write_certificate, write_radii
from steepest.proofs.check import check
from steepest.proofs.checker.radius import Claim, Constant, scores, unproven
from steepest.results import Domain, NetworkRecord
from steepest.robustness.batch import EFFORTS, Batch, attack, certify_batch
from steepest.robustness.constant import GlobalConstant, body, head
from steepest.robustness.decisions import Decisions
from steepest.robustness.decisions import scores as kept

NORMS = [1.0, 2.0, math.inf]
WORK = 1e9


def _network():
    torch.manual_seed(1)
    b = Builder()
    x = b.input((1, 1, 4, 4))
    x = b.relu(b.conv(x, torch.randn(2, 1, 3, 3), torch.randn(2), (2, 2), ((1, 1), (1, 1)), (1, 1), 1))
    x = b.relu(b.dense(b.reshape(x, (1, 8)), torch.randn(6, 8), torch.randn(6)))
    return b.finish(b.softmax(b.dense(x, torch.randn(3, 6)), 1))


GRAPH = _network()
PART = body(kept(GRAPH), head(kept(GRAPH)))


def _constant(norm):
    upper = Product().bound(PART, Domain("all"), norm)
    made = write_certificate(PART.record(), output=None, norm=norm, domain=Domain("all"), upper=upper, lower=None)
    made["upper"]["bound"] = max(upper.value, check(made, PART.record()).upper)
    return made


def _certificate(norm, method):
    x = torch.randn(3, 1, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    proof = _constant(norm)
    node, bound = len(PART.nodes) - 1, proof["upper"]["bound"]
    constant = GlobalConstant(node, bound, norm)
    found = certify_batch(Batch(kept(GRAPH), x, 0, None, norm, EFFORTS["normal"], 0, constant))
    at = Decisions.of(kept(GRAPH), x)
    reach = (at.margins / constant.slopes(at)).amin(1) * (1 - 1e-9)
    share = {"linear": 1.0, "intervals": 0.1, "constant": math.nan}[method]
    claims = []
    for i, one in enumerate(found):
        assert one.radius > 0
        radius = reach[i].item() if method == "constant" else one.radius * share
        claims.append(RadiusClaim(i, x[i].numpy(), one.answer, radius, method, WORK))
    return write_radii(GRAPH.record(), norm, claims, (node, proof) if method == "constant" else None)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("method", ["constant", "intervals", "linear"])
def test_honest_radii_hold_and_alterations_do_not(norm, method):
    honest = _certificate(norm, method)
    verdict = check(honest, GRAPH.record())
    assert verdict.holds and verdict.radii == 3, verdict.reasons

    def altered(change):
        other = copy.deepcopy(honest)
        change(other)
        return check(other, GRAPH.record())

    first = "inputs", 0
    values = [
        ((*first, "radius"), honest["inputs"][0]["radius"] * (100 if method == "intervals" else 1.1)),
        ((*first, "radius"), -1.0),
        ((*first, "radius"), "inf"),
        ((*first, "radius"), True),
        ((*first, "answer"), (honest["inputs"][0]["answer"] + 1) % 3),
        ((*first, "answer"), 3),
        ((*first, "answer"), -1),
        ((*first, "answer"), 0.0),
        ((*first, "method"), "trust me"),
        ((*first, "x"), honest["inputs"][0]["x"] | {"shape": [16]}),
        ((*first, "x"), None),
        (("inputs",), None),
        (("inputs",), [7]),
        (("norm",), "3"),
        (("network", "digest"), "0" * 64),
        (("input_shape",), [16]),
        (("format",), "steepest-certificate/1"),
        (("constant",), {"node": 99, "certificate": None}),
        (("constant",), {"node": len(GRAPH.nodes) - 1, "certificate": None}),
        (("constant",), {"node": 3, "certificate": None}),
        (("constant",), "none"),
    ]
    if method == "linear":
        values += [((*first, "work"), 1e30), ((*first, "work"), None), ((*first, "method"), "constant")]
    if method == "constant":
        bound = honest["constant"]["certificate"]["upper"]["bound"]
        values += [
            (("constant",), None),
            (("constant", "node"), head(kept(GRAPH)) + 1),
            (("constant", "certificate", "upper", "bound"), 0.99 * bound),
            (("constant", "certificate", "norm"), {"1": "2", "2": "inf", "inf": "1"}[honest["norm"]]),
            (("constant", "certificate", "domain"), Domain("box", lo=np.zeros((1, 1, 4, 4)), hi=np.ones((1, 1, 4, 4))).to_json()),
            (("constant", "certificate", "output"), [0]),
        ]
    for path, value in values:

        def change(made, path=path, value=value):
            for key in path[:-1]:
                made = made[key]
            made[path[-1]] = value

        verdict = altered(change)
        assert not verdict.holds, (path, value)
        assert all(reason.endswith(".") for reason in verdict.reasons), verdict.reasons


def test_changed_weights_are_another_network():
    record = GRAPH.record()
    honest = _certificate(2.0, "linear")
    for k, node in enumerate(record.nodes):
        for key, array in node.arrays.items():
            if array.dtype != np.float64:
                continue
            nudged = array.copy()
            nudged.flat[0] = np.nextafter(nudged.flat[0], np.inf)
            nodes = list(record.nodes)
            nodes[k] = replace(node, arrays={**node.arrays, key: nudged})
            assert not check(honest, NetworkRecord(tuple(nodes))).holds


@pytest.mark.parametrize("seed", range(6))
def test_thousands_of_false_claims_are_refused(seed):
    """A claim is false where a point of its ball has another answer: radii, inputs and answers are drawn so that one has."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    first, second, third = torch.randn(6, 3), torch.randn(8, 6), torch.randn(3, 8)

    def net(b, x, offset):
        return b.dense(b.relu(b.dense(b.relu(b.dense(x, first, first[:, 0])), second)), third, offset)

    # Scores that are zero on average: every class is the answer somewhere.
    mean = build((1, 3), lambda b, x: net(b, x, torch.zeros(3))).evaluate(torch.randn(500, 1, 3, dtype=torch.float64)).mean((0, 1))
    graph = build((1, 3), lambda b, x: net(b, x, -mean))
    nodes = scores(graph.record().nodes)
    norm = NORMS[seed % 3]
    x = torch.randn(40, 1, 3, dtype=torch.float64)
    at = Decisions.of(graph, x)
    found = attack(at, norm, EFFORTS["normal"], seed)
    node = head(graph)
    part = body(graph, node)
    constant = Constant(node, Product().bound(part, Domain("all"), norm).value)
    refused = 0
    for k in range(700):
        i = int(rng.integers(40))
        if not math.isfinite(found.distance[i]):
            continue
        method = ("constant", "intervals", "linear")[k % 3]
        distance, answer, centre = found.distance[i].item(), int(at.answer[i]), x[i].numpy()
        what = k % 7
        if what < 3:
            # Not farther than a known change, often by a hair.
            claim = Claim(centre, answer, distance * (1 + 10 ** rng.uniform(-9, 1)), method, WORK)
        elif what < 5:
            # The input moved; the known change stays in the ball.
            moved = centre + rng.normal(size=centre.shape) * distance
            reach = np.linalg.norm((found.point[i].numpy() - moved).ravel(), norm) * (1 + 1e-9)
            if graph.evaluate(torch.from_numpy(moved)).flatten().argmax() != answer:
                reach = rng.random() * 1e-9
            claim = Claim(moved, answer, float(reach), method, WORK)
        else:
            claim = Claim(centre, (answer + int(rng.integers(1, 3))) % 3, distance * 10 ** rng.uniform(-12, 0), method, WORK)
        assert unproven(nodes, claim, norm, constant if k % 2 else None), (what, claim)
        refused += 1
    assert refused > 600


@pytest.mark.parametrize("seed", range(10))
def test_every_radius_of_a_random_network_is_proven_again(seed):
    graph = random_graph(seed)[0]
    x = torch.randn(3, *graph.input_shape, dtype=torch.float64)
    norm = NORMS[seed % 3]
    found = certify_batch(Batch(kept(graph), x, 0, None, norm, EFFORTS["fast"], 0, None))
    claims = [RadiusClaim(i.index, x[i.index].numpy(), i.answer, i.radius, i.source, EFFORTS["fast"].work) for i in found if i.radius > 0]
    verdict = check(write_radii(graph.record(), norm, claims, None), graph.record())
    assert verdict.holds and verdict.radii == len(claims), verdict.reasons
