"""Batch normalisation with statistics of small parts of a large batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm


class GhostBatchNorm(_BatchNorm):
    """Batch normalisation over ghost batches: parts of ``ghost_size`` samples, each with its own mean and variance.

    It separates the size that the optimizer averages gradients over from the size that normalises, and so keeps the noise of small
    batches, which regularises, at large ones. In evaluation mode it is batch normalisation with the running statistics.

    A batch of N samples is dealt out in turn to k = max(1, N // ghost_size) ghost batches; where ghost_size does not divide N, the first
    (k - 1) ghost_size samples to k - 1 of them, and the others are the last. The running statistics take the ghost batches one after
    another, as Algorithm 1 of the paper does.

    Args:
        num_features: channels C of the input ``[N, C, ...]``, two to five axes.
        ghost_size: samples in one ghost batch, at least 1 (at least 2 for inputs ``[N, C]``).
        eps, momentum, affine, track_running_stats, device, dtype: as in ``torch.nn.BatchNorm2d``; with ``momentum=None`` each batch
            counts once, with the mean over its ghost batches.

    Raises:
        ValueError: for a ghost size below 1, an input of another shape, or a ghost batch with one value per channel.

    Source: Hoffer, Hubara and Soudry, "Train longer, generalize better" (2017), section 4.
    """

    def __init__(
        self,
        num_features: int,
        ghost_size: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device=device, dtype=dtype)
        if ghost_size < 1:
            raise ValueError(f"ghost_size must be at least 1, not {ghost_size}")
        self.ghost_size = ghost_size

    def _check_input_dim(self, input: Tensor) -> None:
        if not 2 <= input.dim() <= 5 or input.shape[1] != self.num_features:
            raise ValueError(f"expected an input [N, {self.num_features}, ...] of two to five axes, not {list(input.shape)}")

    def forward(self, input: Tensor) -> Tensor:
        """Normalise ``[N, C, ...]``; the result has the same shape."""
        self._check_input_dim(input)
        if not self.training and self.running_mean is not None:
            return functional.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        parts = max(1, len(input) // self.ghost_size)
        even = parts * self.ghost_size if len(input) % self.ghost_size == 0 else (parts - 1) * self.ghost_size
        pieces, means, variances = [], [], []
        for piece, count in ((input[:even], even // self.ghost_size), (input[even:], 1)):
            if len(piece):
                normal, mean, variance = self._normalise(piece, count)
                pieces.append(normal)
                means.append(mean)
                variances.append(variance)
        if self.training and self.track_running_stats:
            self._track(torch.cat(means), torch.cat(variances))
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def extra_repr(self) -> str:
        """As batch normalisation's, with the ghost size."""
        return f"{self.num_features}, ghost_size={self.ghost_size}, {super().extra_repr().split(', ', 1)[1]}"

    def _normalise(self, x: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Normalise ``count`` interleaved ghost batches at once, as channels of their own: no sample moves."""
        if x.numel() // (count * self.num_features) < 2:
            raise ValueError(
                f"a ghost batch of {len(x) // count} sample has one value per channel: its variance is none; take ghost_size >= 2"
            )
        folded = x.reshape(len(x) // count, count * self.num_features, *x.shape[2:])
        weight, bias = (None if p is None else p.repeat(count) for p in (self.weight, self.bias))
        if not (self.training and self.track_running_stats):
            return functional.batch_norm(folded, None, None, weight, bias, True, 0.0, self.eps).reshape(x.shape), x[:0], x[:0]
        assert self.running_mean is not None
        mean, variance = (self.running_mean.new_zeros(count * self.num_features) for _ in range(2))
        # With momentum 1 the running statistics become those of this batch.
        normal = functional.batch_norm(folded, mean, variance, weight, bias, True, 1.0, self.eps)
        return normal.reshape(x.shape), mean.view(count, -1), variance.view(count, -1)

    @torch.no_grad()
    def _track(self, means: Tensor, variances: Tensor) -> None:
        assert self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        if self.momentum is None:
            keep = 1 - 1 / self.num_batches_tracked.item()
            shares = means.new_full((len(means), 1), (1 - keep) / len(means))
        else:
            # r <- (1 - m) r + m s_i for each ghost batch in turn.
            keep = (1 - self.momentum) ** len(means)
            ages = torch.arange(len(means) - 1, -1, -1, device=means.device, dtype=means.dtype)
            shares = (self.momentum * (1 - self.momentum) ** ages)[:, None]
        self.running_mean.mul_(keep).add_((shares * means).sum(0))
        self.running_var.mul_(keep).add_((shares * variances).sum(0))


def with_ghost_batches_(model: nn.Module, ghost_size: int) -> tuple[str, ...]:
    """Replace every ``BatchNorm1d``, ``2d`` and ``3d`` inside a model by ghost batch normalisation that shares its parameters and buffers.

    Args:
        model: changed in place; an optimizer made before stays valid, for the parameters are the same objects.
        ghost_size: samples in one ghost batch.

    Returns:
        The names of the modules that were replaced.

    Raises:
        ValueError: where there is none inside.
    """
    replaced: dict[nn.Module, GhostBatchNorm] = {}
    names = []
    for prefix, parent in list(model.named_modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)):
                if child not in replaced:
                    replaced[child] = _ghost(child, ghost_size)
                setattr(parent, name, replaced[child])
                names.append(f"{prefix}.{name}" if prefix else name)
    if not names:
        raise ValueError(f"{type(model).__name__} holds no BatchNorm1d, BatchNorm2d or BatchNorm3d inside it")
    return tuple(names)


def _ghost(norm: _BatchNorm, ghost_size: int) -> GhostBatchNorm:
    ghost = GhostBatchNorm(norm.num_features, ghost_size, norm.eps, norm.momentum, norm.affine, norm.track_running_stats, device="meta")
    for name, parameter in norm.named_parameters(recurse=False):
        setattr(ghost, name, parameter)
    for name, buffer in norm.named_buffers(recurse=False):
        setattr(ghost, name, buffer)
    return ghost.train(norm.training)
