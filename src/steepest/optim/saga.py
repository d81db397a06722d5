"""SAGA: stochastic gradients whose variance vanishes, by a table of the last gradient of every component."""

# pyright: reportPrivateImportUsage=false
from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from steepest.optim.descent import Closure, Descent, directions, evaluate, real


class SAGA(Descent):
    """Descent on a finite sum f = (1/n) sum f_i, with a table of gradients t_1 ... t_n that starts at zero.

    For a batch B of components

        x <- x - lr [ (1/|B|) sum_{i in B} (grad f_i(x) - t_i) + (1/n) sum_i t_i ],   then   t_i <- grad f_i(x) for i in B

    (gradients at the same x). The direction is unbiased for every table. For mu-strongly convex and L-smooth f_i, single samples
    drawn uniformly, a table that holds the gradients at x_0 and ``lr = 1/(3L)``, E|x_k - x*|^2 is at most
    ``(1 - min(1/(4n), mu/(3L)))^k (|x_0 - x*|^2 + 2n/(3L) (f(x_0) - f*))`` (section 2 of the source).

    A component is a sample: the closure returns the losses of the batch one by one and does not call ``backward``::

        optimizer = SAGA(model.parameters(), size=len(data), lr=0.1)
        for index, x, y in loader:                      # the data set yields its index too: see ``Indexed``
            optimizer.step(lambda: F.cross_entropy(model(x), y, reduction="none"), index)

    or a component is a fixed batch, with its number and an ordinary closure (zero_grad, backward, return the loss)::

        optimizer.step(closure, number_of_the_batch)    # size: the number of batches

    Gradients of single samples come from one batched backward pass, whose memory is |B| times the parameters; they exist only where the
    loss of a sample does not depend on the others (no batch norm in training). A pass over the data at ``lr = 0`` fills the table.
    Afterwards ``p.grad`` holds the direction without decay.

    Memory: ``size + 1`` times the parameters; with as many components as samples that is for small models.

    Args:
        params: parameters or groups; the groups added later start with a table of zeros.
        size: n, the number of components.
        lr: the rate, a number or a tensor of one element.
        weight_decay: lambda; the full objective is ``f + lambda/2 |x|^2``, whose second gradient is taken exactly.
        memory_limit: bytes that the table may take.
        maximize: ascend.
        foreach: False updates one tensor at a time.

    Raises:
        ValueError: for an option out of its range, or a table larger than the limit.

    Source: A. Defazio, F. Bach, S. Lacoste-Julien, SAGA: a fast incremental gradient method with support for non-strongly convex composite
    objectives, NeurIPS 2014.
    """

    def __init__(
        self,
        params: ParamsT,
        size: int,
        lr: float | Tensor = 1e-2,
        weight_decay: float = 0.0,
        *,
        memory_limit: int = 4 << 30,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
    ) -> None:
        if size < 1:
            raise ValueError(f"size is {size}: the number of components, at least 1, is needed")
        super().__init__(
            params,
            {
                "lr": lr,
                "size": size,
                "weight_decay": weight_decay,
                "memory_limit": memory_limit,
                "maximize": maximize,
                "foreach": foreach,
                "differentiable": differentiable,
            },
        )

    def _require(self, group: dict[str, Any]) -> None:
        super()._require(group)
        if group["size"] != self.param_groups[0]["size"]:
            raise ValueError(f"size is {group['size']} in a group and {self.param_groups[0]['size']} before: there is one finite sum")
        needed = sum(p.numel() * p.element_size() for g in self.param_groups for p in g["params"]) * group["size"]
        if needed > group["memory_limit"]:
            raise ValueError(
                f"a table of {group['size']} gradients takes {needed} bytes, the limit is {group['memory_limit']}: "
                "(a) take batches as components, (b) take SVRG, which stores two, or (c) raise memory_limit"
            )

    @torch.no_grad()
    def step(self, closure: Closure | None = None, index: Tensor | int | None = None) -> Any:
        """One step.

        Args:
            closure: with ``index`` a tensor: returns the losses of these components, a vector, without ``backward``. With ``index`` a
                number: zeroes the gradients, evaluates the loss, calls ``backward``.
            index: which components, each once.

        Returns:
            The closure's value.

        Raises:
            RuntimeError: without a closure or an index.
            ValueError: for an index out of range or twice, or losses that are not one per index.
        """
        if closure is None or index is None:
            raise RuntimeError("SAGA needs step(closure, index): the index says whose entries of the table are meant")
        rows = torch.as_tensor(index).reshape(-1).long()
        size = self.param_groups[0]["size"]
        if rows.numel() == 0 or int(rows.min()) < 0 or int(rows.max()) >= size:
            raise ValueError(f"index {rows.tolist()} does not name components of 0 to {size - 1}")
        if rows.unique().numel() != rows.numel():
            raise ValueError(f"index {rows.tolist()} names a component twice: draw the samples of a batch without replacement")
        losses = evaluate(closure)
        stacked = self._differentiate(losses, rows) if isinstance(index, Tensor) else self._gradients()
        for p, gradients in stacked.items():
            p.grad = self._direction(p, gradients, rows, size)
        for group, active in self._chunks():
            torch._foreach_add_(real(active), directions(active, group), alpha=-float(group["lr"]))
        return losses

    def _gradients(self) -> dict[Tensor, Tensor]:
        """Per parameter the gradient of the one component, as a stack of one."""
        return {p: p.grad.unsqueeze(0) for group in self.param_groups for p in self._active(group) if p.grad is not None}

    def _differentiate(self, losses: Any, rows: Tensor) -> dict[Tensor, Tensor]:
        """Per parameter the gradients of the single losses, stacked."""
        if not isinstance(losses, Tensor) or losses.shape != rows.shape:
            given = f"shape {tuple(losses.shape)}" if isinstance(losses, Tensor) else type(losses).__name__
            raise ValueError(f"the closure returned {given}: one loss per index, shape {tuple(rows.shape)}, is needed (reduction='none')")
        self.zero_grad()
        parameters = [p for group in self.param_groups for p in group["params"] if p.requires_grad]
        units = torch.eye(len(rows), dtype=losses.dtype, device=losses.device)
        stacked = torch.autograd.grad(losses, parameters, units, is_grads_batched=True, allow_unused=True)
        return {p: g for p, g in zip(parameters, stacked, strict=True) if g is not None}

    def _direction(self, p: Tensor, gradients: Tensor, rows: Tensor, size: int) -> Tensor:
        """The direction of one parameter; enters the components' gradients into the table."""
        state = self.state[p]
        if not state:
            state["table"] = p.new_zeros((size, *p.shape))
            state["table_mean"] = torch.zeros_like(p)
        rows = rows.to(p.device)
        difference = gradients - state["table"][rows]
        state["table"][rows] = gradients
        direction = difference.mean(0) + state["table_mean"]
        state["table_mean"].add_(difference.sum(0), alpha=1.0 / size)
        return direction
