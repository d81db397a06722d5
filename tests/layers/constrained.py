"""What the tests of constrained layers share: the layer as a matrix, and the whole proof of its norm."""

import math

import torch

import steepest
from steepest.api import capture
from steepest.bounds import Product
from steepest.proofs.certificate import write_certificate
from steepest.proofs.check import check
from steepest.results import Domain


def matrix(module, shape):
    """The linear part of a module on inputs of a shape, as applied, in float64: ``[outputs, inputs]``."""
    module = module.double()
    with torch.no_grad():
        unit = torch.eye(math.prod(shape), dtype=torch.float64).reshape(-1, *shape)
        zero = module(torch.zeros(1, *shape, dtype=torch.float64))
        return (module(unit) - zero).flatten(1).mT


def proven_product(model, sample):
    """What the checker proves from the certificate of the product of norms."""
    graph = capture(model, sample=sample[:1], factory=None, input_shape=None).graph
    domain, record = Domain("all"), graph.record()
    upper = Product().bound(graph, domain, 2.0)
    verdict = check(write_certificate(record, output=None, norm=2.0, domain=domain, upper=upper, lower=None), record)
    assert verdict.holds, verdict.reasons
    return max(upper.value, verdict.upper)


def proven(model, sample):
    """The upper end that ``bound`` finds and ``check`` agrees with, from the certificate alone."""
    bracket = steepest.bound(model, sample=sample[:1], effort="fast", time_limit=1)
    assert steepest.check(bracket.certificate, model, sample=sample[:1]).holds
    return bracket.upper
