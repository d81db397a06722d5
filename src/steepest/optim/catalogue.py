"""The descent methods by name: how each is built, where it comes from, what it needs, over which ranges it is tuned."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from torch.optim import SGD, Optimizer

from steepest.errors import UsageError
from steepest.optim.method import Method, Need
from steepest.optim.space import LogUniform, OneMinusLogUniform

# A memory of 1 / (1 - m) = 2 to 100 steps, the values in use. With 0.999 as the end, a third of the points would remember longer than
# that, longer than a short run lasts.
_MOMENTUM = OneMinusLogUniform(1e-2, 0.5)
_BETA2 = OneMinusLogUniform(1e-4, 0.1)
_DECAY = LogUniform(1e-5, 1e-1)
_GRADIENT = LogUniform(1e-4, 10.0)
# Effective rates lr / (1 - m). With noise the best is about that of plain descent; without, steps of up to 2 (1 + m) / L are stable, an
# effective rate more than 1 / (1 - m) times as large.
_EFFECTIVE = LogUniform(1e-3, 100.0)
_SIGNED = LogUniform(1e-5, 1e-1)

_METHODS = (
    Method("sgd", "Stochastic gradient descent", "Robbins and Monro 1951", "torch.optim.SGD", space={"lr": _GRADIENT}),
    Method(
        "momentum",
        "Momentum (heavy ball)",
        "Polyak 1964",
        "torch.optim.SGD",
        defaults={"momentum": 0.9},
        space={"lr": _EFFECTIVE, "momentum": _MOMENTUM},
        summed="momentum",
    ),
    Method(
        "nesterov",
        "Nesterov's accelerated gradient",
        "Nesterov 1983; Sutskever et al. 2013",
        "torch.optim.SGD",
        options={"nesterov": True},
        defaults={"momentum": 0.9},
        space={"lr": _EFFECTIVE, "momentum": _MOMENTUM},
        summed="momentum",
    ),
    Method("asgd", "Averaged SGD", "Polyak and Juditsky 1992", "torch.optim.ASGD", space={"lr": _GRADIENT}),
    Method("rprop", "Rprop", "Riedmiller and Braun 1993", "torch.optim.Rprop", space={"lr": _SIGNED}, needs=frozenset({Need.FULL_BATCH})),
    Method("adagrad", "Adagrad", "Duchi, Hazan and Singer 2011", "torch.optim.Adagrad", space={"lr": LogUniform(1e-4, 1.0)}),
    Method(
        "adadelta",
        "Adadelta",
        "Zeiler 2012",
        "torch.optim.Adadelta",
        space={"lr": LogUniform(1e-2, 1e2), "rho": OneMinusLogUniform(1e-3, 0.3)},
    ),
    Method(
        "rmsprop",
        "RMSprop",
        "Tieleman and Hinton 2012",
        "torch.optim.RMSprop",
        space={"lr": _SIGNED, "alpha": OneMinusLogUniform(1e-3, 0.3)},
    ),
    Method("adam", "Adam", "Kingma and Ba 2015", "torch.optim.Adam", space={"lr": _SIGNED, "beta1": _MOMENTUM, "beta2": _BETA2}),
    Method(
        "adamax",
        "AdaMax",
        "Kingma and Ba 2015, section 7.1",
        "torch.optim.Adamax",
        space={"lr": _SIGNED, "beta1": _MOMENTUM, "beta2": _BETA2},
    ),
    Method("nadam", "Nadam", "Dozat 2016", "torch.optim.NAdam", space={"lr": _SIGNED, "beta1": _MOMENTUM, "beta2": _BETA2}),
    Method(
        "amsgrad",
        "AMSGrad",
        "Reddi, Kale and Kumar 2018",
        "torch.optim.Adam",
        options={"amsgrad": True},
        space={"lr": _SIGNED, "beta1": _MOMENTUM, "beta2": _BETA2},
    ),
    Method(
        "adamw",
        "AdamW",
        "Loshchilov and Hutter 2019",
        "torch.optim.AdamW",
        space={"lr": _SIGNED, "beta1": _MOMENTUM, "beta2": _BETA2, "weight_decay": _DECAY},
    ),
    Method("radam", "RAdam", "Liu et al. 2020", "torch.optim.RAdam", space={"lr": _SIGNED, "beta1": _MOMENTUM, "beta2": _BETA2}),
    Method("adafactor", "Adafactor", "Shazeer and Stern 2018", "torch.optim.Adafactor", space={"lr": LogUniform(1e-4, 1.0)}),
    Method(
        "lbfgs",
        "L-BFGS",
        "Liu and Nocedal 1989",
        "torch.optim.LBFGS",
        options={"line_search_fn": "strong_wolfe"},
        space={"lr": LogUniform(1e-2, 1.0)},
        needs=frozenset({Need.CLOSURE, Need.FULL_BATCH}),
    ),
    Method(
        "adafom",
        "AdaFom",
        "Chen, Liu, Sun and Hong 2019",
        "steepest.optim.AdaFom",
        space={"lr": LogUniform(1e-4, 1.0), "beta1": _MOMENTUM},
    ),
    Method("adadelay", "AdaDelay", "Sra, Yu, Li and Smola 2016", "steepest.optim.AdaDelay", space={"lr": LogUniform(1e-4, 1.0)}),
    Method(
        "svrg",
        "SVRG",
        "Johnson and Zhang 2013",
        "steepest.optim.SVRG",
        space={"lr": _GRADIENT},
        needs=frozenset({Need.CLOSURE, Need.SNAPSHOT}),
    ),
    Method(
        "saga",
        "SAGA",
        "Defazio, Bach and Lacoste-Julien 2014",
        "steepest.optim.SAGA",
        space={"lr": _GRADIENT},
        needs=frozenset({Need.COMPONENTS}),
    ),
    Method(
        "sps",
        "Stochastic Polyak step, SPS_max",
        "Loizou, Vaswani, Laradji and Lacoste-Julien 2021",
        "steepest.optim.StochasticPolyak",
        space={"lr": LogUniform(1e-2, 1e2)},
        needs=frozenset({Need.LOSS}),
    ),
    Method(
        "armijo",
        "Stochastic Armijo line search",
        "Vaswani et al. 2019",
        "steepest.optim.Armijo",
        space={"lr": LogUniform(1e-2, 1e2)},
        needs=frozenset({Need.CLOSURE}),
    ),
    Method(
        "bb",
        "Barzilai-Borwein step",
        "Barzilai and Borwein 1988",
        "steepest.optim.BarzilaiBorwein",
        space={"lr": LogUniform(1e-4, 1.0)},
        needs=frozenset({Need.FULL_BATCH}),
    ),
    Method(
        "lion",
        "Lion",
        "Chen et al. 2023",
        "pytorch_optimizer.Lion",
        "optim",
        space={"lr": LogUniform(1e-6, 1e-2), "beta1": _MOMENTUM, "beta2": _BETA2},
    ),
    Method(
        "lars",
        "LARS",
        "You, Gitman and Ginsburg 2017",
        "pytorch_optimizer.LARS",
        "optim",
        space={"lr": LogUniform(1e-2, 1e2), "momentum": _MOMENTUM},
        summed="momentum",
    ),
    Method(
        "lamb",
        "LAMB",
        "You et al. 2020",
        "pytorch_optimizer.Lamb",
        "optim",
        space={"lr": LogUniform(1e-4, 1e-1), "beta1": _MOMENTUM, "beta2": _BETA2},
    ),
    Method(
        "shampoo", "Shampoo", "Gupta, Koren and Singer 2018", "pytorch_optimizer.Shampoo", "optim", space={"lr": LogUniform(1e-3, 10.0)}
    ),
    Method(
        "sam",
        "SAM (around SGD with momentum)",
        "Foret et al. 2021",
        "pytorch_optimizer.SAM",
        "optim",
        options={"base_optimizer": SGD},
        defaults={"momentum": 0.9},
        space={"lr": _EFFECTIVE, "momentum": _MOMENTUM, "rho": LogUniform(1e-2, 1.0)},
        needs=frozenset({Need.CLOSURE, Need.GRADIENT}),
        summed="momentum",
    ),
    Method(
        "sgd_schedule_free",
        "Schedule-free SGD",
        "Defazio et al. 2024",
        "schedulefree.SGDScheduleFree",
        "optim",
        space={"lr": LogUniform(1e-3, 1e2), "momentum": _MOMENTUM},
        needs=frozenset({Need.MODES}),
    ),
    Method(
        "adamw_schedule_free",
        "Schedule-free AdamW",
        "Defazio et al. 2024",
        "schedulefree.AdamWScheduleFree",
        "optim",
        space={"lr": _SIGNED, "beta1": _MOMENTUM, "beta2": _BETA2, "weight_decay": _DECAY},
        needs=frozenset({Need.MODES}),
    ),
    Method(
        "kfac",
        "K-FAC",
        "Martens and Grosse 2015",
        "steepest.optim.KFAC",
        "kfac",
        space={"lr": LogUniform(1e-4, 1.0), "damping": LogUniform(1e-4, 1.0)},
        needs=frozenset({Need.MODEL}),
        package="curvlinops",
    ),
)


def catalogue() -> Mapping[str, Method]:
    """Every method by its name, also those whose extra is not installed (``Method.available``)."""
    return MappingProxyType({method.name: method for method in _METHODS})


def find(name: str) -> Method:
    """The method of that name.

    Raises:
        UsageError: for an unknown name; lists the known ones.
    """
    try:
        return catalogue()[name]
    except KeyError:
        raise UsageError(f"there is no optimizer {name!r}; known are {', '.join(sorted(catalogue()))}") from None


def build(name: str, params: Iterable[Any], **options: Any) -> Optimizer:
    """The optimizer of that name over parameters, with options of its class (``Method.build``).

    Raises:
        UsageError: for an unknown name, a missing extra, or an option that the class does not take.
    """
    return find(name).build(params, **options)
