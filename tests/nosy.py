"""A probe that asks everything there is to ask."""

import torch
from torch import Tensor

from steepest.probes import Probe
from steepest.probes.autograd import terms
from steepest.probes.events import tensors


class Nosy(Probe):
    def __init__(self):
        self.events = []

    def of(self, kind):
        return [e for k, e in self.events if k == kind]

    def keep(self, kind, event, **facts):
        self.events.append((kind, {"step": event.step, "sampled": event.sampled, **facts}))

    def on_forward(self, event):
        self.keep("forward", event, name=event.name, grad=event.grad, training=event.training, inputs=[i.sum() for i in event.inputs])

    def on_module(self, event):
        out = [t.float().square().mean().item() for t in tensors(event.output) if t.numel()]
        self.keep("module", event, name=event.name, depth=event.depth, order=event.order, leaf=event.leaf, out=out)

    def on_module_gradient(self, event):
        self.keep("module_gradient", event, name=event.name, order=event.order, norm=event.gradient.float().norm().item() / event.scale)

    def on_criterion(self, event):
        facts = {k: getattr(event, k) for k in ("name", "value", "grad", "on_output", "training", "options", "input_shape", "target_shape")}
        self.keep("criterion", event, **facts)

    def on_comparison(self, event):
        self.keep("comparison", event, name=event.name, mean=event.result.float().mean().item(), grad=event.grad, shape=event.result.shape)

    def before_backward(self, event):
        if event.sampled:
            leaves = [p for m in self.run.models for p in m.parameters() if p.requires_grad]
            if leaves and event.loss.numel() == 1:
                with torch.enable_grad():
                    torch.autograd.grad(event.loss, leaves, retain_graph=True, allow_unused=True)
            found = [(t.name, t.path, None if t.target is None else t.target.clone()) for t in terms(event)]
            self.keep("terms", event, terms=found)
        self.keep("backward", event, value=event.value, scale=event.scale, criteria=len(event.criteria), number=event.number)

    def after_backward(self, event):
        self.keep("after_backward", event)

    def before_step(self, event):
        norms = [p.grad.norm().item() for p in event.parameters if isinstance(p.grad, Tensor)] if event.sampled else None
        self.keep("before_step", event, index=event.index, norms=norms, cleared=event.cleared, backwards=event.backwards)

    def after_step(self, event):
        facts = {k: getattr(event, k) for k in ("index", "own_step", "losses", "backwards", "cleared", "by_hand", "rates")}
        self.keep("after_step", event, **facts)

    def on_optimizer(self, optimizer):
        self.events.append(("optimizer", type(optimizer).__name__))

    def on_epoch(self, event):
        self.keep("epoch", event, number=event.number, batches=event.batches, size=event.batch_size, shuffled=event.shuffled)
