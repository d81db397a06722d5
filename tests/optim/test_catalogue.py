"""Every method by name: built from its space, driven as its needs say, it descends."""

import math
import subprocess
import sys

import pytest
import torch
from torch import nn

from steepest.errors import UsageError
from steepest.optim.catalogue import build, catalogue, find
from steepest.optim.method import Method, Need
from steepest.optim.space import LogUniform, OneMinusLogUniform, Uniform

NAMES = sorted(catalogue())


def available(name):
    method = find(name)
    if not method.available:
        pytest.skip(f"needs the extra {method.extra}")
    return method


class Task:
    """Thirty-two points in space, two classes, a small network."""

    def __init__(self):
        torch.manual_seed(0)
        self.x = torch.randn(32, 3)
        self.y = (self.x[:, 0] > 0.2 * self.x[:, 1]).long()
        self.model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2))
        self.criterion = nn.CrossEntropyLoss()

    def options(self, method):
        if Need.MODEL in method.needs:
            return {"model": self.model, "criterion": self.criterion}
        return {"size": len(self.x)} if Need.COMPONENTS in method.needs else {}

    def loss(self):
        with torch.no_grad():
            return float(self.criterion(self.model(self.x), self.y))

    def closure(self, optimizer):
        def evaluate():
            optimizer.zero_grad()
            loss = self.criterion(self.model(self.x), self.y)
            loss.backward()
            return loss

        return evaluate

    def train(self, method, optimizer, steps=30):
        closure = self.closure(optimizer)
        for t in range(steps):
            if Need.MODES in method.needs:
                optimizer.train()
            if Need.SNAPSHOT in method.needs and t % 5 == 0:
                optimizer.snapshot([(self.criterion(self.model(self.x), self.y), len(self.x))])
            if Need.GRADIENT in method.needs:
                closure()
            if Need.COMPONENTS in method.needs:
                everything = torch.arange(len(self.x))
                optimizer.step(lambda: nn.functional.cross_entropy(self.model(self.x), self.y, reduction="none"), everything)
            elif Need.MODEL in method.needs:
                optimizer.step(closure, batch=(self.x, self.y))
            else:
                optimizer.step(closure)
        if Need.MODES in method.needs:
            optimizer.eval()


@pytest.mark.parametrize("name", NAMES)
def test_some_rate_of_its_space_descends(name):
    method, best = available(name), math.inf
    for u in (0.5, 0.8, 1.0):
        task = Task()
        start = task.loss()
        options = {option: span.at(u if option == "lr" else 0.5) for option, span in method.space.items()}
        optimizer = build(name, task.model.parameters(), **options, **task.options(method))
        assert isinstance(optimizer, method.load()) and optimizer.param_groups[0]["lr"] == options["lr"]
        task.train(method, optimizer)
        best = min(best, task.loss())
    assert best < 0.8 * start


@pytest.mark.parametrize("name", NAMES)
def test_a_negative_rate_is_refused(name):
    method, task = available(name), Task()
    for rate in (-0.1, math.nan):
        with pytest.raises(UsageError, match=f"{name}: lr is"):
            build(name, task.model.parameters(), lr=rate, **task.options(method))


@pytest.mark.parametrize("name", NAMES)
def test_the_rate_alone_suffices(name):
    method, task = available(name), Task()
    optimizer = build(name, task.model.parameters(), lr=0.01, **task.options(method))
    assert optimizer.param_groups[0]["lr"] == 0.01


@pytest.mark.parametrize("name", NAMES)
def test_entries(name):
    method = catalogue()[name]
    assert method.name == name and method.title and method.source[-4:].isdigit() | ("section" in method.source)
    assert "lr" in method.space and all(span.at(0.0) < span.at(0.3) < span.at(1.0) for span in method.space.values())
    assert not method.options.keys() & method.space.keys()
    assert all(isinstance(need, Need) for need in method.needs)


def test_unknown_names_list_the_known_ones():
    with pytest.raises(UsageError, match=r"no optimizer 'adm'; known are adadelay, adadelta, .*, adam, .*, svrg"):
        build("adm", [nn.Parameter(torch.zeros(1))], lr=0.1)


def test_options():
    p = [nn.Parameter(torch.zeros(1))]
    assert build("adam", p, lr=0.1, beta2=0.9).param_groups[0]["betas"] == (0.9, 0.9)
    assert build("momentum", p).param_groups[0]["momentum"] == 0.9
    assert build("nesterov", p, momentum=0.5).param_groups[0]["momentum"] == 0.5
    assert build("adam", p, lr=torch.tensor(0.1)).param_groups[0]["lr"] == torch.tensor(0.1)
    with pytest.raises(UsageError, match="adam cannot be built"):
        build("adam", p, lr=torch.ones(2))
    assert build("amsgrad", p).param_groups[0]["amsgrad"] is True
    with pytest.raises(UsageError, match="amsgrad fixes amsgrad"):
        build("amsgrad", p, amsgrad=False)
    with pytest.raises(UsageError, match="adam cannot be built"):
        build("adam", p, nonsense=1)
    with pytest.raises(UsageError, match=r"sgd cannot be built.*beta1"):
        build("sgd", p, beta1=0.5)


def test_a_missing_extra_is_named():
    method = Method("x", "X", "nobody 2000", "package_that_nobody_has.X", "optim")
    assert not method.available
    with pytest.raises(UsageError, match=r"steepest\[optim\]"):
        method.build([nn.Parameter(torch.zeros(1))])


def test_extras_load_when_they_are_built():
    code = """
import sys, steepest.optim.catalogue as c
c.catalogue()
print(sorted({'pytorch_optimizer', 'schedulefree', 'curvlinops'} & set(sys.modules)))
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_ranges():
    assert LogUniform(1e-4, 1.0).at(0.5) == pytest.approx(1e-2)
    assert Uniform(2.0, 4.0).at(0.25) == 2.5
    beta = OneMinusLogUniform(1e-3, 0.1)
    assert (beta.at(0.0), beta.at(0.5), beta.at(1.0)) == pytest.approx((0.9, 0.99, 0.999))
