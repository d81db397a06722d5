"""Turns what the hooks see into events for the probes."""

from __future__ import annotations

import math
import threading
import time
import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from steepest.probes.autograd import leaves
from steepest.probes.events import (
    Backward,
    Comparison,
    Criterion,
    Epoch,
    Forward,
    LossPoint,
    ModuleCall,
    ModuleGradient,
    Step,
    prediction_of,
    tensors,
)
from steepest.probes.probe import Measurement, Probe
from steepest.watch.listeners import Listeners
from steepest.watch.loaders import describe
from steepest.watch.optimizer_state import OptimizerState
from steepest.watch.run import WatchedRun
from steepest.watch.schedule import Schedule

COMPILED = "torch.compile was used: modules and losses inside what it compiles are not seen, only backward passes, gradients and steps"
OTHER_THREADS = "several threads trained at once: only one was watched at a time"


class _Thread(threading.local):
    """What belongs to one thread: the module calls it is in, and the losses it has called."""

    def __init__(self) -> None:
        self.calls: list[list[Any]] = []
        self.in_step: int = 0


class Observer(Listeners):
    """Follows one run and feeds its probes.

    Nothing here raises into the script: a probe that fails is dropped, and if the observer fails itself it goes blind. All that
    touches tensors does so without gradients and with the hooks silent.

    Args:
        run: what is filled.
        probes: who is asked.
        schedule: which windows are sampled.
    """

    def __init__(self, run: WatchedRun, probes: Sequence[Probe], schedule: Schedule) -> None:
        super().__init__(run)
        self.schedule = schedule
        self.thread = _Thread()
        self.owner: int | None = None
        self.training = False
        self.states: list[OptimizerState] = []
        self.widening = 1
        self.next_sample = 0
        self.began = time.perf_counter()
        self.order = self.trained = self.evaluated = 0
        self.known: weakref.WeakKeyDictionary[nn.Module, bool] = weakref.WeakKeyDictionary()
        self.calls = 0
        self.last_call: tuple[weakref.ref[Tensor] | None, int, bool, bool] | None = None
        self.outputs: list[tuple[str, Tensor]] = []
        self.criteria: list[Criterion] = []
        self.scaled: list[tuple[weakref.ref[Tensor], Tensor, Tensor]] = []
        self.values: list[float] = []
        self.points = self.passes = 0
        self.stepped, self.optimized = True, False
        self.copy: tuple[weakref.ref[Tensor], Tensor] | None = None
        self.backward_scale: float | None = None
        self.loaders: weakref.WeakKeyDictionary[Any, list[int]] = weakref.WeakKeyDictionary()
        self.ask(probes)

    def here(self, training: bool) -> bool:
        """Whether this thread is the one that is watched: the first that trains, and once it has ended the next.

        A backward pass runs without the interpreter's lock: whoever reads gradients, or walks or hooks a graph, that another thread is
        in the middle of differentiating, corrupts memory.

        Args:
            training: whether it is about to differentiate or to step, rather than only to call modules.
        """
        me = threading.get_ident()
        if self.owner != me:
            alive = self.owner is not None and any(t.ident == self.owner for t in threading.enumerate())
            if alive and (self.training or not training):
                if training:
                    self.run.note(OTHER_THREADS)
                return False
            self.owner, self.training = me, False
            self.forget()
        self.training = self.training or training
        return True

    # Windows.

    @property
    def sampled(self) -> bool:
        """Whether the present window is looked at closely."""
        return self.windows_left > 0

    def _next_window(self) -> None:
        self.order = self.trained = self.evaluated = 0
        step = self.run.steps
        if self.windows_left:
            self.windows_left -= 1
            if self.windows_left == 0 and self.spent > self.schedule.budget * (time.perf_counter() - self.began):
                self.widening *= 2
                self.next_sample = max(self.next_sample, step + self.schedule.gap(step) * self.widening)
        if not self.windows_left and step >= self.next_sample:
            # Optimizers that take turns are all seen.
            turns = max(sum(1 for s in self.states if s.steps and s.optimizer() is not None), 1)
            self.windows_left, self.windows = turns, self.windows + 1
            self.next_sample = step + max(turns, self.schedule.gap(step) * self.widening)

    def finish(self) -> None:
        """The run is over: ask every probe for its record."""
        records: list[Measurement] = []

        def ask(probe: Probe) -> None:
            record = probe.finish()
            if record is not None:
                records.append(record)

        self.busy = True
        with torch.no_grad():
            for probe in list(self.probes):
                self._ask(probe, "finish", ask, probe)
        self.seeing = False
        self.forget()
        self.run.close(tuple(records))

    def forget(self) -> None:
        """Let go of every tensor."""
        self.outputs, self.criteria, self.scaled, self.copy = [], [], [], None

    # Modules.

    def enter(self, module: nn.Module) -> None:
        """A module is about to be called."""
        calls = self.thread.calls
        if calls:
            calls[-1][1] = False
        elif module not in self.known:
            self.guard(lambda: self._first_call(module))
        calls.append([module, True])

    def _first_call(self, module: nn.Module) -> None:
        model = next(module.parameters(), None) is not None
        self.known[module] = model
        if model:
            self.run.add_model(module)

    def leave(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """A module was called; ``output`` is None where it raised."""
        calls = self.thread.calls
        if not any(called is module for called, _ in calls):
            return
        called, leaf = calls.pop()
        while called is not module:
            called, leaf = calls.pop()
        depth = len(calls)
        if output is None or (depth and not self.windows_left):
            return
        grad = torch.is_grad_enabled()
        sampled = self.windows_left > 0 and (self.trained < self.schedule.forwards if grad else self.evaluated < self.schedule.evaluations)
        model = depth == 0 and self.known.get(module, False)
        if model or (sampled and (self.listeners["on_module"] or self.listeners["on_module_gradient"])):
            self.guard(lambda: self._called(module, args, kwargs, output, depth, grad, sampled, leaf, model))

    def _called(
        self,
        module: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        output: Any,
        depth: int,
        grad: bool,
        sampled: bool,
        leaf: bool,
        model: bool,
    ) -> None:
        step = self.run.steps
        if model:
            self._model_called(module, args, kwargs, output, grad, sampled)
        if not sampled or isinstance(module, torch.fx.GraphModule):
            return
        name = self.run.module_name(module)
        order, self.order = self.order, self.order + 1
        self.tell("on_module", ModuleCall(step, True, module, name, args, kwargs, output, module.training, grad, depth, order, leaf))
        if grad and self.listeners["on_module_gradient"]:
            tensor = next(tensors(output), None)
            if tensor is not None and tensor.grad_fn is not None:
                self._follow_gradient(tensor, module, name, order)

    def _model_called(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any, grad: bool, sampled: bool
    ) -> None:
        self.calls += 1
        if grad:
            self.trained += 1
        else:
            self.evaluated += 1
        prediction = prediction_of(output)
        length = prediction.shape[0] if prediction is not None and prediction.ndim else 0
        self.last_call = (None if prediction is None else weakref.ref(prediction), length, grad, module.training)
        if sampled and grad and prediction is not None and prediction.requires_grad:
            # Outputs that are never differentiated must not pile up.
            self.outputs = [*self.outputs[-7:], (self.run.module_name(module), prediction)]
        if self.listeners["on_forward"]:
            name = self.run.module_name(module)
            self.tell("on_forward", Forward(self.run.steps, sampled, module, name, args, kwargs, output, module.training, grad))

    def _follow_gradient(self, tensor: Tensor, module: nn.Module, name: str, order: int) -> None:
        step = self.run.steps

        place = tensor.output_nr

        def reached(gradients: tuple[Tensor | None, ...]) -> None:
            # Inside torch.autograd.grad the scale is None: such a gradient is the script's business, or a probe's.
            gradient, scale = gradients[place], self.backward_scale
            if gradient is not None and scale is not None:
                self.guard(lambda: self.tell("on_module_gradient", ModuleGradient(step, True, module, name, order, gradient, scale)))

        # On the node: a hook of the tensor would be seen by whoever copies or saves the tensor.
        assert tensor.grad_fn is not None
        tensor.grad_fn.register_prehook(reached)

    def compiled(self, what: Any) -> None:
        """``torch.compile`` was asked for something: None, a function, a module or its method."""
        self.run.note(COMPILED)
        module = getattr(what, "__self__", what)
        if isinstance(module, nn.Module) and module not in self.known:
            self.guard(lambda: self._first_call(module))

    # Losses.

    def criterion(self, name: str, bound: dict[str, Any], result: Any) -> None:
        """A loss function returned."""
        given, target = bound.get("input"), bound.get("target")
        if isinstance(given, Tensor) and isinstance(target, Tensor) and isinstance(result, Tensor):
            self.guard(lambda: self._criterion(name, given, target, bound, result))

    def _criterion(self, name: str, given: Tensor, target: Tensor, bound: dict[str, Any], result: Tensor) -> None:
        last = self.last_call
        options = {k: v for k, v in bound.items() if k not in ("input", "target") and not isinstance(v, Tensor)}
        value = result.item() if result.numel() == 1 and (result.device.type == "cpu" or self.windows_left) else None
        event = Criterion(
            step=self.run.steps,
            sampled=self.sampled,
            name=name,
            input=given,
            target=target,
            result=result,
            input_shape=tuple(given.shape),
            target_shape=tuple(target.shape),
            target_dtype=target.dtype,
            options=options,
            value=value,
            grad=result.requires_grad,
            on_output=last is not None and last[0] is not None and last[0]() is given,
            training=None if last is None else last[3],
        )
        self.tell("on_criterion", event)
        # The record lives on until the backward pass, its tensors must not.
        for tensor in ("input", "target", "result"):
            object.__setattr__(event, tensor, None)
        if event.grad and len(self.criteria) < 64:
            self.criteria.append(event)

    def comparison(self, name: str, left: Any, right: Any, result: Any) -> None:
        """Two tensors were compared."""
        if isinstance(right, Tensor) and isinstance(result, Tensor) and self.listeners["on_comparison"]:
            self.guard(lambda: self._comparison(name, left, right, result))

    def _comparison(self, name: str, left: Tensor, right: Tensor, result: Tensor) -> None:
        last = self.last_call
        if last is None or result.requires_grad or left.ndim == 0 or right.ndim == 0 or last[1] not in (left.shape[0], right.shape[0]):
            return
        event = Comparison(self.run.steps, self.sampled, name, left, right, result, last[2], last[3], self.calls)
        self.tell("on_comparison", event)

    def scaled_loss(self, original: Any, result: Any, scale: Any) -> None:
        """A gradient scaler multiplied a loss."""
        if isinstance(original, Tensor) and isinstance(result, Tensor) and isinstance(scale, Tensor) and result is not original:
            self.scaled = [*self.scaled[-3:], (weakref.ref(result), original.detach(), scale)]

    # Backward passes.

    def begin_backward(self, first: Any) -> Backward | None:
        """A backward pass is about to begin."""
        made: list[Backward] = []
        if isinstance(first, Tensor):
            self.guard(lambda: made.append(self._begin_backward(first)))
        return made[0] if made else None

    def _begin_backward(self, loss: Tensor) -> Backward:
        self._update_by_hand()
        if self.stepped:
            self.stepped, self.values, self.points, self.passes = False, [], 0, 0
        for state in self.states:
            state.before_backward()
        reading, scale = self._value(loss)
        if isinstance(reading, Tensor):
            self.run.add_loss(LossPoint(self.run.steps, math.nan, None, self._length()), reading.clone())
            self.points += 1
        elif reading is not None:
            self.run.add_loss(LossPoint(self.run.steps, reading, None, self._length()))
            self.points += 1
            self.values.append(reading)
        self.run.backwards += 1
        value = reading if isinstance(reading, float) else None
        event = Backward(
            self.run.steps,
            self.sampled,
            loss,
            value,
            scale,
            tuple(self.criteria),
            tuple(self.outputs),
            self.thread.in_step > 0,
            self.passes,
        )
        self.passes += 1
        self.criteria, self.outputs, self.scaled = [], [], []
        self.tell("before_backward", event)
        object.__setattr__(event, "outputs", ())
        self.backward_scale = scale
        return event

    def end_backward(self, event: Backward | None) -> None:
        """The gradients are there; None where the pass raised or was not seen to begin."""
        self.backward_scale = None
        if event is not None:
            self.guard(lambda: self._end_backward(event))

    def _end_backward(self, event: Backward) -> None:
        for state in self.states:
            state.after_backward()
        if not self.optimized:
            self._remember(event.loss)
        self.tell("after_backward", event)

    def _length(self) -> int:
        return 0 if self.last_call is None else self.last_call[1]

    def _value(self, loss: Tensor) -> tuple[float | Tensor | None, float]:
        """The loss without the factor of a gradient scaler, and that factor; a tensor where reading must wait."""
        original, scale = loss, 1.0
        readable = self.sampled or loss.device.type == "cpu"
        for ref, unscaled, factor in self.scaled:
            if ref() is loss:
                original = unscaled
                scale = float(factor) if readable else math.nan
        if original.numel() != 1:
            return None, scale
        return (float(original.item()) if readable else original.detach().reshape(())), scale

    def _update_by_hand(self) -> None:
        """Where no optimizer has stepped, a parameter that changed since the last backward pass is a step."""
        parameter, copy = (None, None) if self.copy is None else (self.copy[0](), self.copy[1])
        if self.thread.in_step or parameter is None or copy is None or (parameter.shape == copy.shape and torch.equal(parameter, copy)):
            return
        self.run.by_hand = True
        event = Step(self.run.steps, self.sampled, None, -1, self.run.steps, tuple(self.values), self.passes, None, True)
        self.run.steps += 1
        self.copy, self.stepped = None, True
        self.tell("after_step", event)
        self._next_window()

    def _remember(self, loss: Tensor) -> None:
        """Keep a copy of the smallest parameter that the loss has given a gradient, to see whether it is updated by hand."""
        if self.copy is None or self.copy[0]() is None:
            smallest = min((p for p in leaves(loss) if p.grad is not None), key=Tensor.numel, default=None)
            self.copy = None if smallest is None else (weakref.ref(smallest), smallest.detach().clone())

    # Optimizers.

    def optimizer_made(self, optimizer: Optimizer) -> None:
        """An optimizer was constructed."""
        self.guard(lambda: self._state(optimizer))

    def _state(self, optimizer: Optimizer) -> OptimizerState:
        for state in self.states:
            if state.optimizer() is optimizer:
                return state
        state = OptimizerState(weakref.ref(optimizer), len(self.states))
        self.states.append(state)
        self.run._optimizers.append(state.optimizer)
        for probe, call in tuple(self.listeners["on_optimizer"]):
            self._ask(probe, "on_optimizer", call, optimizer)
        return state

    def begin_step(self, optimizer: Optimizer) -> None:
        """An optimizer is about to step."""
        self.thread.in_step += 1
        self.guard(lambda: self.tell("before_step", self._step(optimizer)))

    def end_step(self, optimizer: Optimizer) -> None:
        """An optimizer has stepped."""
        self.thread.in_step = max(self.thread.in_step - 1, 0)
        self.guard(lambda: self._end_step(optimizer))

    def _step(self, optimizer: Optimizer) -> Step:
        state = self._state(optimizer)
        # Nothing differentiated since its last step: a closure will do so during this one.
        values, cleared = (tuple(self.values), state.cleared) if state.fresh else ((), None)
        return Step(self.run.steps, self.sampled, optimizer, state.index, state.steps, values, state.backwards, cleared)

    def _end_step(self, optimizer: Optimizer) -> None:
        state = self._state(optimizer)
        event = self._step(optimizer)
        state.after_step()
        self.copy, self.optimized = None, True
        self.run.assign_losses(self.points, state.index)
        self.run.steps += 1
        self.stepped = True
        self.tell("after_step", event)
        self._next_window()

    # Data.

    def loader_read(self, loader: Any) -> None:
        """A data loader begins to be read."""
        self.guard(lambda: self._loader_read(loader))

    def _loader_read(self, loader: Any) -> None:
        place = self.loaders.setdefault(loader, [len(self.loaders), 0])
        number, place[1] = place[1], place[1] + 1
        batches, size, shuffled = describe(loader)
        grad = torch.is_grad_enabled()
        self.tell("on_epoch", Epoch(self.run.steps, self.sampled, loader, place[0], number, batches, size, shuffled, grad))
