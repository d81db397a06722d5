"""The places where a run can be changed from outside: calls of models and functions, backward passes, steps of optimizers."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as modules
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.overrides import TorchFunctionMode

ACTIVATIONS = frozenset(
    "sigmoid tanh relu softmax log_softmax leaky_relu elu selu gelu silu softplus hardtanh hardsigmoid softsign logsigmoid relu6".split()
)
VIEWS = frozenset("view reshape squeeze unsqueeze flatten view_as contiguous __getitem__".split())
WEIGHTED = frozenset("linear conv1d conv2d conv3d".split())

Proceed = Callable[..., Any]


class Seams:
    """What one changed run has attached; a context manager that leaves torch as it was.

    Interventions append to the lists before the run begins. The order is that of a step: ``inputs`` and ``outputs`` of an outermost call
    of a module with parameters, ``around`` functions of torch, ``backward`` (may return another root), ``before_step``, ``after_step``.
    Functions are caught by a ``TorchFunctionMode``, so that it does not matter by which name or method the script calls them; each result
    of an activation function knows its argument (``before``), also through views.
    """

    def __init__(self) -> None:
        self.stack = ExitStack()
        self.touched = False
        self.training_calls = 0
        self.depth = 0
        self.functions: dict[str, list[Callable[..., Any]]] = {}
        self.follow = False
        self.called: list[Callable[[nn.Module], None]] = []
        self.entered: list[Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...] | None]] = []
        self.outputs: list[Callable[[nn.Module, Any], Any]] = []
        self.left: list[Callable[[nn.Module], None]] = []
        self.backward: list[Callable[[Tensor], Tensor | None]] = []
        self.made: list[Callable[[Optimizer], None]] = []
        self.before_step: list[Callable[[Optimizer], None]] = []
        self.after_step: list[Callable[[Optimizer], None]] = []
        self.optimizers: list[Optimizer] = []
        self.plain_backward = torch.autograd.backward

    def touch(self) -> None:
        """The change has had an effect."""
        self.touched = True

    def around(self, names: str, handler: Callable[..., Any]) -> None:
        """Wrap functions of torch: ``handler(name, proceed, *args, **kwargs)`` returns their result."""
        self.follow = True
        for name in names.split():
            self.functions.setdefault(name, []).append(functools.partial(_named, name, handler))

    def replace(self, owner: Any, name: str, value: Any) -> None:
        """Set an attribute until the run is over."""
        if name in vars(owner):
            self.stack.callback(setattr, owner, name, vars(owner)[name])
        else:
            self.stack.callback(delattr, owner, name)
        setattr(owner, name, value)

    def __enter__(self) -> Seams:
        """Attach."""
        calls: list[nn.Module] = []

        def enter(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
            calls.append(module)
            for told in self.called:
                told(module)
            result = None
            if len(calls) == 1 and _has_parameters(module):
                self.depth = 1
                self.training_calls += torch.is_grad_enabled()
                for change in self.entered:
                    result = change(module, args if result is None else result) or result
            return result

        def leave(module: nn.Module, args: Any, output: Any) -> Any:
            while calls and calls.pop() is not module:
                pass
            if calls or not _has_parameters(module):
                return None
            self.depth = 0
            for restore in self.left:
                restore(module)
            if output is None:
                return None
            for change in self.outputs:
                output = change(module, output)
            return output

        def before(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
            for change in self.before_step:
                change(optimizer)

        def after(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
            for change in self.after_step:
                change(optimizer)

        self.stack.callback(modules.register_module_forward_pre_hook(enter).remove)  # pyright: ignore[reportArgumentType]
        self.stack.callback(modules.register_module_forward_hook(leave, always_call=True).remove)
        self.stack.callback(register_optimizer_step_pre_hook(before).remove)
        self.stack.callback(register_optimizer_step_post_hook(after).remove)
        self._wrap_backward()
        self._wrap_constructor()
        if self.follow:
            self.stack.enter_context(_Mode(self))
        return self

    def __exit__(self, *error: object) -> None:
        """Take everything off."""
        self.stack.close()

    def _wrap_backward(self) -> None:
        plain = self.plain_backward

        @functools.wraps(plain)
        def backward(tensors: Any, *args: Any, **kwargs: Any) -> None:
            if isinstance(tensors, Tensor):
                for change in self.backward:
                    tensors = _or(change(tensors), tensors)
            plain(tensors, *args, **kwargs)

        self.replace(torch.autograd, "backward", backward)

    def _wrap_constructor(self) -> None:
        construct = Optimizer.__init__

        @functools.wraps(construct)
        def made(optimizer: Optimizer, *args: Any, **kwargs: Any) -> None:
            construct(optimizer, *args, **kwargs)
            if not any(o is optimizer for o in self.optimizers):
                self.optimizers.append(optimizer)
                for told in self.made:
                    told(optimizer)

        self.replace(Optimizer, "__init__", made)


class _Mode(TorchFunctionMode):
    """Calls the handlers of functions, and keeps what activations were applied to."""

    def __init__(self, seams: Seams) -> None:
        super().__init__()
        self.seams = seams

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        call: Proceed = functools.partial(followed, name, func) if name in ACTIVATIONS or name in VIEWS else func
        for handler in self.seams.functions.get(name, ()):
            call = functools.partial(handler, call)
        return call(*args, **(kwargs or {}))


def before(value: Any) -> tuple[str, Tensor] | None:
    """The activation function that made a tensor, and its argument; None for other tensors."""
    return getattr(value, "_steepest_before", None)


def followed(name: str, func: Any, *args: Any, **kwargs: Any) -> Any:
    """Call an activation function, or a view, so that its result knows what ``before`` tells."""
    if name in ACTIVATIONS and kwargs.get("inplace"):
        kwargs["inplace"] = False
    result = func(*args, **kwargs)
    if not args or not isinstance(args[0], Tensor) or not isinstance(result, Tensor) or result is args[0]:
        return result
    if name in ACTIVATIONS:
        result._steepest_before = (name, args[0])  # pyright: ignore[reportAttributeAccessIssue]
    else:
        known = before(args[0])
        if known is not None:
            result._steepest_before = (known[0], func(known[1], *args[1:], **kwargs))  # pyright: ignore[reportAttributeAccessIssue]
    return result


def _named(name: str, handler: Callable[..., Any], proceed: Proceed, *args: Any, **kwargs: Any) -> Any:
    return handler(name, proceed, *args, **kwargs)


def _or(new: Tensor | None, old: Tensor) -> Tensor:
    return old if new is None else new


def _has_parameters(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None
