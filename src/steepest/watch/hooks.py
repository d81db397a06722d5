"""The places where an observer looks: global hooks of torch, and a few of its functions wrapped for as long as it watches."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor, nn
from torch._C._functorch import peek_interpreter_stack  # pyright: ignore[reportMissingImports]
from torch.nn.modules import module as modules
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils.data import DataLoader

from steepest.watch.observer import Observer

CRITERIA = (
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "cross_entropy",
    "gaussian_nll_loss",
    "hinge_embedding_loss",
    "huber_loss",
    "kl_div",
    "l1_loss",
    "mse_loss",
    "multi_margin_loss",
    "multilabel_margin_loss",
    "multilabel_soft_margin_loss",
    "nll_loss",
    "poisson_nll_loss",
    "smooth_l1_loss",
    "soft_margin_loss",
)

_attached: list[Observer] = []


def _blind() -> None:
    """A forked process, such as a worker of a data loader, is not what is watched."""
    for observer in _attached:
        observer.seeing = False


os.register_at_fork(after_in_child=_blind)


@contextmanager
def unwatched() -> Generator[None]:
    """Inside, no observer sees anything: for what is done to a run from outside and is not part of it."""
    before = [(observer, observer.seeing) for observer in _attached]
    for observer, _ in before:
        observer.seeing = False
    try:
        yield
    finally:
        for observer, seeing in before:
            observer.seeing = seeing


INVISIBLE = "<steepest importlib._bootstrap>"


class Hooks:
    """Everything one observer has attached; ``remove`` leaves torch as it was."""

    def __init__(self, observer: Observer) -> None:
        self.observer, self.stack = observer, ExitStack()
        try:
            self._attach()
        except BaseException:
            self.stack.close()
            raise

    def remove(self) -> None:
        """Take everything off again."""
        self.stack.close()

    def _attach(self) -> None:
        see = self.observer
        _attached.append(see)
        self.stack.callback(_attached.remove, see)

        def visible(training: bool = False) -> bool:
            return see.seeing and not see.busy and not unobservable() and see.here(training)

        def enter(module: nn.Module, args: Any) -> None:
            if not torch.compiler.is_compiling() and visible():
                see.safely(see.enter, module)

        def leave(module: nn.Module, args: Any, *rest: Any) -> None:
            # After an exception torch leaves the keyword arguments out, and the output is None.
            if not torch.compiler.is_compiling() and visible():
                see.safely(see.leave, module, args, rest[0] if len(rest) == 2 else {}, rest[-1])

        def before(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
            if not torch.compiler.is_compiling() and visible(training=True):
                see.begin_step(optimizer)

        def after(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
            if not torch.compiler.is_compiling() and visible(training=True):
                see.end_step(optimizer)

        self.stack.callback(modules.register_module_forward_pre_hook(enter).remove)
        left = modules.register_module_forward_hook(leave, with_kwargs=True, always_call=True)
        # Removal forgets this entry (torch 2.13).
        self.stack.callback(modules._global_forward_hooks_with_kwargs.pop, left.id, None)
        self.stack.callback(left.remove)
        self.stack.callback(register_optimizer_step_pre_hook(before).remove)
        self.stack.callback(register_optimizer_step_post_hook(after).remove)
        self._wrap_engine(visible)
        self._wrap_losses(visible)
        self._wrap_comparisons(visible)
        self._wrap_makers(visible)
        self._keep_compile_quiet()

    def _set(self, owner: Any, name: str, value: Any) -> None:
        """Set an attribute until removal; an inherited one is deleted again."""
        own = vars(owner)
        if name in own:
            self.stack.callback(setattr, owner, name, own[name])
        else:
            self.stack.callback(delattr, owner, name)
        setattr(owner, name, _transparent(value))

    def _wrap_engine(self, visible: Callable[..., bool]) -> None:
        see = self.observer
        backward, grad = torch.autograd.backward, torch.autograd.grad

        @functools.wraps(backward)
        def watched_backward(*args: Any, **kwargs: Any) -> None:
            if torch.compiler.is_compiling() or not visible(training=True):
                return backward(*args, **kwargs)
            given = args[0] if args else kwargs.get("tensors")
            event = see.begin_backward(given if isinstance(given, Tensor) else next(iter(given or ()), None))
            del given
            try:
                backward(*args, **kwargs)
            except BaseException:
                see.end_backward(None)
                raise
            see.end_backward(event)

        @functools.wraps(grad)
        def watched_grad(*args: Any, **kwargs: Any) -> Any:
            if torch.compiler.is_compiling() or not visible():
                return grad(*args, **kwargs)
            scale, see.backward_scale = see.backward_scale, None
            try:
                return grad(*args, **kwargs)
            finally:
                see.backward_scale = scale

        self._set(torch.autograd, "backward", watched_backward)
        self._set(torch.autograd, "grad", watched_grad)

    def _wrap_losses(self, visible: Callable[[], bool]) -> None:
        for name in CRITERIA:
            self._set(functional, name, self._watched_loss(name, getattr(functional, name), visible))

    def _watched_loss(self, name: str, loss: Callable[..., Any], visible: Callable[[], bool]) -> Callable[..., Any]:
        see, names = self.observer, tuple(inspect.signature(loss).parameters)

        @functools.wraps(loss)
        def watched_loss(*args: Any, **kwargs: Any) -> Any:
            result = loss(*args, **kwargs)
            if not torch.compiler.is_compiling() and visible():
                see.safely(see.criterion, name, {**dict(zip(names, args, strict=False)), **kwargs}, result)
            return result

        return watched_loss

    def _wrap_comparisons(self, visible: Callable[[], bool]) -> None:
        see = self.observer

        def watched(name: str, compare: Callable[..., Any]) -> Callable[..., Any]:
            @functools.wraps(compare)
            def watched_comparison(left: Any, *args: Any, **kwargs: Any) -> Any:
                result = compare(left, *args, **kwargs)
                if args and see.last_call is not None and not torch.compiler.is_compiling() and visible() and isinstance(left, Tensor):
                    see.comparison(name, left, args[0], result)
                return result

            return watched_comparison

        for owner, attribute, name in (
            (Tensor, "__eq__", "eq"),
            (Tensor, "eq", "eq"),
            (torch, "eq", "eq"),
            (Tensor, "__ne__", "ne"),
            (Tensor, "__sub__", "sub"),
        ):
            self._set(owner, attribute, watched(name, getattr(owner, attribute)))

    def _wrap_makers(self, visible: Callable[[], bool]) -> None:
        see = self.observer
        construct, scale, read = Optimizer.__init__, torch.amp.GradScaler.scale, DataLoader.__iter__

        @functools.wraps(construct)
        def watched_construct(self: Optimizer, *args: Any, **kwargs: Any) -> None:
            construct(self, *args, **kwargs)
            if visible():
                see.optimizer_made(self)

        @functools.wraps(scale)
        def watched_scale(self: Any, outputs: Any) -> Any:
            result = scale(self, outputs)
            if visible():
                see.safely(see.scaled_loss, outputs, result, self._scale)
            return result

        @functools.wraps(read)
        def watched_read(self: Any) -> Any:
            if visible():
                see.loader_read(self)
            return read(self)

        self._set(Optimizer, "__init__", watched_construct)
        self._set(torch.amp.GradScaler, "scale", watched_scale)
        self._set(DataLoader, "__iter__", watched_read)

        compiling = torch.compile

        @functools.wraps(compiling)
        def watched_compile(*args: Any, **kwargs: Any) -> Any:
            result = compiling(*args, **kwargs)
            if visible():
                see.safely(see.compiled, args[0] if args else kwargs.get("model"))
            return result

        self._set(torch, "compile", watched_compile)

    def _keep_compile_quiet(self) -> None:
        """A compiled module warns of global hooks; ours fire outside of what it compiles and need no warning."""

        def has_others() -> bool:
            hooks = len(modules._global_forward_hooks) - 1 + len(modules._global_forward_pre_hooks) - 1
            return bool(modules._global_backward_pre_hooks or modules._global_backward_hooks or hooks)

        self._set(modules, "_has_any_global_hook", has_others)


def _transparent(wrapper: Callable[..., Any]) -> Callable[..., Any]:
    """The wrapper, invisible to warnings: they skip frames of importlib's bootstrap, so that ``stacklevel=2`` is the script's line."""
    code = wrapper.__code__
    wrapper.__code__ = code.replace(co_filename=INVISIBLE)
    return wrapper


def unobservable() -> bool:
    """Whether torch is inside a trace or a transform, where tensors are no numbers and whatever we did would become part of it."""
    return torch._C._get_tracing_state() is not None or peek_interpreter_stack() is not None
