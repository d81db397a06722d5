"""The effective step a_t / sqrt(v_t) of each Adam-type method, read from its state."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adagrad, Adam, Adamax, NAdam, Optimizer, RAdam, RMSprop

from steepest.errors import UsageError
from steepest.optim import AdaDelay, AdaFom

Group = Mapping[str, Any]


@dataclass(frozen=True)
class Rule:
    """How a method scales its direction: ``x_{t+1} = x_t - s_t m_t`` by coordinate.

    Args:
        moment: the second moment from a group and a parameter's state, None before its first step.
        step: s_t from the group, the second moment and t = 1, 2, ...
        least: the least s_t that gradients with ``|g| <= H`` could have led to, as a function of H.
        forgets: whether the second moment is a moving average of fixed memory, for which B = o(sum gamma) is never guaranteed.
        corrected: whether there is bias correction.
        falls: whether effective steps fall at a constant rate, because the second moment is a sum.
    """

    moment: Callable[[Group, Group], Tensor | None]
    step: Callable[[Group, Tensor, float], Tensor]
    least: Callable[[Group, Tensor, float], Tensor]
    forgets: Callable[[Group], bool]
    corrected: bool
    falls: bool = False


def rule(optimizer: Optimizer) -> Rule:
    """The rule of an optimizer.

    Raises:
        UsageError: for a method that is not of Adam's type, and for one that has changed the step of such a method.
    """
    name = type(optimizer).__name__
    for method, found in _RULES:
        if isinstance(optimizer, method):
            if inspect.unwrap(type(optimizer).step) is not inspect.unwrap(method.step):
                raise UsageError(
                    f"{name} has a step of its own, which need not be that of {method.__name__}: its effective step is not known"
                )
            return found
    if name in _OTHERS:
        raise UsageError(f"{name} is no Adam-type method: {_OTHERS[name]}")
    known = ", ".join(method.__name__ for method, _ in _RULES)
    raise UsageError(f"{name} is no Adam-type method: its steps are none of {known} (AdamW and AMSGrad are Adam's)")


def _rate(group: Group) -> float:
    return float(group["lr"])


def _first(group: Group, t: float) -> float:
    return 1.0 - float(group["betas"][0]) ** t


def _second(group: Group, t: float) -> float:
    return 1.0 - float(group["betas"][1]) ** t


def _adam(group: Group, v: Tensor, t: float) -> Tensor:
    return _rate(group) / _first(group, t) / ((v / _second(group, t)).sqrt() + group["eps"])


def _adam_least(group: Group, h: Tensor, t: float) -> Tensor:
    # The corrected v is a convex combination of squares, the largest of them too.
    return _rate(group) / _first(group, t) / (h + group["eps"])


def _nadam(group: Group, v: Tensor, t: float) -> Tensor:
    return _rate(group) / ((v / _second(group, t)).sqrt() + group["eps"])


def _plain_least(group: Group, h: Tensor, t: float) -> Tensor:
    return _rate(group) / (h + group["eps"])


def _rectification(group: Group, t: float) -> float | None:
    """r_t of Liu et al. 2020, None while the variance is intractable and the step is not scaled."""
    beta = float(group["betas"][1])
    limit = 2.0 / (1.0 - beta) - 1.0
    length = limit - 2.0 * t * beta**t / (1.0 - beta**t)
    if length <= 5.0:
        return None
    return math.sqrt((length - 4) * (length - 2) * limit / ((limit - 4) * (limit - 2) * length))


def _radam(group: Group, v: Tensor, t: float) -> Tensor:
    scale = _rectification(group, t)
    if scale is None:
        return torch.full_like(v, _rate(group) / _first(group, t))
    return _rate(group) * scale / _first(group, t) * math.sqrt(_second(group, t)) / (v.sqrt() + group["eps"])


def _radam_least(group: Group, h: Tensor, t: float) -> Tensor:
    scale = _rectification(group, t)
    if scale is None:
        return torch.full_like(h, _rate(group) / _first(group, t))
    root = math.sqrt(_second(group, t))
    return _rate(group) * scale / _first(group, t) * root / (h * root + group["eps"])


def _adamax(group: Group, u: Tensor, t: float) -> Tensor:
    return _rate(group) / _first(group, t) / u


def _rmsprop(group: Group, v: Tensor, t: float) -> Tensor:
    return _rate(group) / (v.sqrt() + group["eps"])


def _adagrad_rate(group: Group, t: float) -> float:
    return _rate(group) / (1.0 + (t - 1.0) * float(group["lr_decay"]))


def _adagrad(group: Group, total: Tensor, t: float) -> Tensor:
    return _adagrad_rate(group, t) / (total.sqrt() + group["eps"])


def _adagrad_least(group: Group, h: Tensor, t: float) -> Tensor:
    return _adagrad_rate(group, t) / ((float(group["initial_accumulator_value"]) + t * h * h).sqrt() + group["eps"])


def _adadelay(group: Group, total: Tensor, t: float) -> Tensor:
    return _rate(group) / (total.sqrt() + group["smoothness"] + group["eps"])


def _adadelay_least(group: Group, h: Tensor, t: float) -> Tensor:
    return _rate(group) / (math.sqrt(t) * h + group["smoothness"] + group["eps"])


def _key(name: str) -> Callable[[Group, Group], Tensor | None]:
    return lambda group, state: state.get(name)


def _adam_moment(group: Group, state: Group) -> Tensor | None:
    return state.get("max_exp_avg_sq" if group["amsgrad"] else "exp_avg_sq")


def _rmsprop_moment(group: Group, state: Group) -> Tensor | None:
    square, mean = state.get("square_avg"), state.get("grad_avg")
    return square if square is None or mean is None or not group["centered"] else square.addcmul(mean, mean, value=-1).clamp_(min=0)


def _always(group: Group) -> bool:
    return True


def _never(group: Group) -> bool:
    return False


_OTHERS = {
    "Adadelta": "its rate is itself a moving average of its steps, a coordinate at a time",
    "Adafactor": "its second moment is a product of row and column means, and its steps are clipped",
    "ASGD": "it scales no coordinate by a second moment",
    "LBFGS": "it scales by an approximate inverse Hessian",
    "Muon": "it orthogonalises whole matrices",
    "Rprop": "it moves by the gradient's sign and has no second moment",
    "SGD": "it scales no coordinate by a second moment",
    "SparseAdam": "it leaves the moments of a row as they are until the row has a gradient, so that there is no v_t in between",
}

_RULES: tuple[tuple[type[Optimizer], Rule], ...] = (
    (
        Adam,
        Rule(_adam_moment, _adam, _adam_least, lambda g: not g["amsgrad"], True),
    ),
    (NAdam, Rule(_key("exp_avg_sq"), _nadam, _plain_least, _always, True)),
    (RAdam, Rule(_key("exp_avg_sq"), _radam, _radam_least, _always, True)),
    (Adamax, Rule(_key("exp_inf"), _adamax, _adam_least, _always, True)),
    (RMSprop, Rule(_rmsprop_moment, _rmsprop, _plain_least, _always, False)),
    (Adagrad, Rule(_key("sum"), _adagrad, _adagrad_least, _never, False, falls=True)),
    (AdaFom, Rule(_key("mean_sq"), _rmsprop, _plain_least, _never, False)),
    (AdaDelay, Rule(_key("weighted_sq"), _adadelay, _adadelay_least, _never, False, falls=True)),
)
