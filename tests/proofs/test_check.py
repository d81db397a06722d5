"""The checker accepts what holds and rejects every alteration that matters."""

import copy
import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from steepest.bounds import ClarkeJacobian, LinearJacobian, LipSDP, PieceLipSDP, Product, Rowwise
from steepest.capture.builder import Builder
from steepest.capture.head import with_output
from steepest.numerics.deadline import Deadline
from steepest.proofs.certificate import write_certificate
from steepest.proofs.check import check
from steepest.results import Domain, NetworkRecord
from steepest.results.domain import array_from_json, array_to_json
from steepest.witnesses.ascent import GradientAscent


def _network():
    torch.manual_seed(1)
    b = Builder()
    x = b.input((1, 1, 5, 5))
    x = b.relu(b.conv(x, torch.randn(3, 1, 3, 3), torch.randn(3), (2, 2), ((1, 1), (1, 1)), (1, 1), 1))
    x = b.relu(b.dense(b.reshape(x, (1, 27)), torch.randn(6, 27), torch.randn(6)))
    return b.finish(b.dense(x, torch.randn(3, 6)))


GRAPH = _network()
BALL = Domain("ball", centre=np.zeros((1, 1, 5, 5)), radius=0.02, norm=2.0)


METHODS = {
    "product": Product(),
    "jacobian": ClarkeJacobian(),
    "linear-jacobian": LinearJacobian(),
    "rowwise": Rowwise(LinearJacobian().row_sums, PieceLipSDP(first=10)),
    "lipsdp": LipSDP(deadline=Deadline(), steps=30),
}


@pytest.fixture(
    scope="module",
    params=[
        ("product", "all", 2.0),
        ("jacobian", "ball", 2.0),
        ("jacobian", "all", math.inf),
        ("linear-jacobian", "ball", 2.0),
        ("linear-jacobian", "ball", math.inf),
        ("rowwise", "wide", math.inf),
        ("lipsdp", "all", 2.0),
        ("lipsdp", "ball", 2.0),
    ],
    ids=str,
)
def certificate(request):
    """A certificate by each method, its bound restated as what the checker proves."""
    method, kind, norm = request.param
    domain = {"all": Domain("all"), "ball": BALL, "wide": replace(BALL, radius=0.1, norm=math.inf)}[kind]
    output = (0, 2) if method == "jacobian" else None
    graph = with_output(GRAPH, output)
    upper = METHODS[method].bound(graph, domain, norm)
    lower = GradientAscent(seconds=0.5, starts=4).search(graph, domain, norm)
    made = write_certificate(GRAPH.record(), output=output, norm=norm, domain=domain, upper=upper, lower=lower)
    verdict = check(made, GRAPH.record())
    made["upper"]["bound"] = max(upper.value, verdict.upper)
    made["lower"]["bound"] = min(lower.value, verdict.lower)
    return made


def test_an_honest_certificate_holds(certificate):
    verdict = check(certificate, GRAPH.record())
    assert verdict.holds, verdict.reasons
    assert 0 < verdict.lower <= verdict.upper < math.inf


def _altered(certificate, path, value):
    changed = copy.deepcopy(certificate)
    at = changed
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value(at[path[-1]]) if callable(value) else value
    return changed


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("format",), "steepest-certificate/2"),
        (("network", "digest"), "0" * 64),
        (("input_shape",), [1, 25]),
        (("upper", "bound"), lambda v: v * 0.999),
        (("upper", "bound"), lambda v: v * (1 - 1e-5)),
        (("upper", "bound"), -1.0),
        (("upper", "bound"), True),
        (("upper", "bound"), None),
        (("upper", "bound"), "nan"),
        (("upper", "method"), "trust me"),
        (("upper", "steps"), "none"),
        (("upper", "steps"), [{"node": 99, "gain": 1.0}]),
        (("lower", "bound"), lambda v: v * 1.001),
        (("lower", "x"), lambda v: array_to_json(array_from_json(v) + 1e9)),
        (("lower", "y"), {"shape": [1], "dtype": "float64", "base64": "!"}),
        (("norm",), "3"),
        (("domain",), {"kind": "sphere"}),
        (("domain",), None),
        (("output",), [0, 99]),
        (("output",), [1, 1]),
        (("output",), [True]),
    ],
    ids=lambda v: "changed" if callable(v) else str(v)[:30],
)
def test_alterations_are_rejected(certificate, path, value):
    verdict = check(_altered(certificate, path, value), GRAPH.record())
    assert not verdict.holds
    assert all(reason.endswith(".") for reason in verdict.reasons)


def test_a_recomputed_bound_may_not_be_shaved_at_all(certificate):
    if certificate["upper"]["method"] in ("lipsdp", "rowwise"):
        pytest.skip("multipliers prove slightly more than they are asked for")
    assert not check(_altered(certificate, ("upper", "bound"), lambda v: v * (1 - 1e-9)), GRAPH.record()).holds


def test_gains_and_regions_count(certificate):
    record = GRAPH.record()
    if certificate["upper"]["method"] == "product":
        for k in range(3):
            lowered = _altered(certificate, ("upper", "steps", k, "gain"), lambda g: g * (1 - 1e-6))
            assert not check(lowered, record).holds
            raised = _altered(certificate, ("upper", "steps", k, "gain"), lambda g: g * 1.01)
            assert not check(raised, record).holds
        assert not check(_altered(certificate, ("upper", "steps"), lambda s: s[1:]), record).holds
    elif certificate["domain"]["kind"] == "ball":
        assert not check(_altered(certificate, ("domain", "radius"), 5.0), record).holds


def test_rows_count(certificate):
    if certificate["upper"]["method"] != "rowwise":
        pytest.skip("no rows")
    record, rows = GRAPH.record(), certificate["upper"]["rows"]
    assert any(rows)
    i = next(i for i, row in enumerate(rows) if row)
    weights, others = rows[i][0], rows[i][1:]
    heavier = {**weights, "multipliers": array_to_json(array_from_json(weights["multipliers"]) * (1 + 1e-9))}
    negative = {**weights, "multipliers": array_to_json(-array_from_json(weights["multipliers"]))}
    weaker = [{**step, "multipliers": array_to_json(array_from_json(step["multipliers"]) * 0.9)} for step in others]
    changes = (
        [heavier, *others],
        [negative, *others],
        others,
        [weights, *weaker],
        [weights, *others[:-1]],
        [weights],
        [*rows[i], rows[i][-1]],
    )
    for changed in changes:
        assert not check(_altered(certificate, ("upper", "rows", i), changed), record).holds
    for changed in ([], rows[1:], [*rows, []], "none", [[] for _ in rows]):
        assert not check(_altered(certificate, ("upper", "rows"), changed), record).holds
    assert not check(_altered(certificate, ("norm",), "2"), record).holds
    assert not check(_altered(certificate, ("upper", "steps"), [{"node": 1, "work": 1e30}]), record).holds
    assert not check(_altered(certificate, ("upper", "steps"), [{"node": 1, "work": -1.0}]), record).holds


def test_the_enclosure_that_slopes_come_from_counts():
    record, domain = GRAPH.record(), replace(BALL, radius=0.05)
    upper = LipSDP(deadline=Deadline(), steps=30).bound(GRAPH, domain, 2.0)
    made = write_certificate(record, output=None, norm=2.0, domain=domain, upper=upper, lower=None)
    assert check(made, record).holds
    # With slopes from intervals the same multipliers prove nothing.
    plain = copy.deepcopy(made)
    del plain["upper"]["enclosure"]
    assert not check(plain, record).holds
    for work in (0.0, -1.0, 1e30, None, "inf", True, [1.0]):
        assert not check(_altered(made, ("upper", "enclosure", "work"), work), record).holds
    for enclosure in (None, [], {}, {"work": upper.work, "trust": 1}):
        assert not check(_altered(made, ("upper", "enclosure"), enclosure), record).holds
    unbounded = check(_altered(made, ("domain",), {"kind": "all"}), record)
    assert not unbounded.holds and "bounded domain" in unbounded.reasons[0]
    used = [step for step in made["upper"]["steps"] if array_from_json(step["multipliers"]).any()]
    assert used
    for step in used:
        weaker = array_to_json(array_from_json(step["multipliers"]) * 0.9)
        changed = [{**s, "multipliers": weaker} if s is step else s for s in made["upper"]["steps"]]
        assert not check(_altered(made, ("upper", "steps"), changed), record).holds


def test_one_bit_of_one_weight_counts(certificate):
    nodes = list(GRAPH.record().nodes)
    at = next(i for i, n in enumerate(nodes) if n.op == "dense")
    weight = nodes[at].arrays["weight"].copy()
    weight.flat[0] = np.nextafter(weight.flat[0], np.inf)
    nodes[at] = replace(nodes[at], arrays={**nodes[at].arrays, "weight": weight})
    assert not check(certificate, NetworkRecord(tuple(nodes))).holds


@pytest.mark.parametrize("junk", [None, [], 3, "x", {}, {"format": "steepest-certificate/1"}], ids=str)
def test_junk_gets_a_verdict(junk):
    assert not check(junk, GRAPH.record()).holds


def test_the_checker_needs_no_torch():
    code = "import sys, steepest.proofs.check; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
