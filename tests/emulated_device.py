"""An accelerator played by the processor: tensors that say they are elsewhere, and refuse to be mixed with those that are not."""

from __future__ import annotations

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map, tree_map_only

DEVICE = torch.device("meta")
"""Its name: the one device that needs no hardware and no initialisation."""

aten = torch.ops.aten
INDEXED = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}
"""Real accelerators take indices from the processor here."""


class Far(torch.Tensor):
    """A tensor on the emulated device; ``near`` holds its numbers."""

    @staticmethod
    def __new__(cls, near):
        return torch.Tensor._make_wrapper_subclass(
            cls, near.shape, strides=near.stride(), storage_offset=near.storage_offset(), dtype=near.dtype, device=DEVICE
        )

    def __init__(self, near):
        self.near = near

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return EmulatedDevice().run(func, args, kwargs or {})


class _FromNumbers(TorchFunctionMode):
    """``torch.tensor`` copies out of sight of a dispatch mode."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") == DEVICE:
            return func(*args, **{**kwargs, "device": "cpu"}).to(DEVICE)
        return func(*args, **kwargs)


class EmulatedDevice(TorchDispatchMode):
    """While it is entered, ``meta`` is a device whose tensors have numbers. ``calls`` counts what was computed there."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def __enter__(self):
        self._made = _FromNumbers()
        self._made.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self._made.__exit__(*error)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return self.run(func, args, kwargs or {})

    def run(self, func, args, kwargs):
        tensors = []
        tree_map_only(torch.Tensor, tensors.append, (args, kwargs))
        far = [t for t in tensors if isinstance(t, Far)]
        assert not any(t.is_meta and not isinstance(t, Far) for t in tensors), f"{func}: a tensor was made out of this mode's sight"
        asked = kwargs.get("device")
        there = bool(far) if asked is None else torch.device(asked).type == DEVICE.type
        copies = func in (aten._to_copy.default, aten.copy_.default)
        if far and not copies:
            checked = args[:1] if func in INDEXED else (args, kwargs)
            near = []
            tree_map_only(torch.Tensor, lambda t: near.append(t) if not isinstance(t, Far) and t.ndim else None, checked)
            if near:
                raise RuntimeError(f"{func}: tensors on the processor among those on the device")
        if asked is not None:
            kwargs = {**kwargs, "device": torch.device("cpu")}
        if func is aten.copy_.default:
            there = isinstance(args[0], Far)
        self.calls += there
        known = {id(t.near): t for t in far}
        result = func(*tree_map(_near, args), **tree_map(_near, kwargs))
        if not there:
            return result
        # Lazy conjugation lives in a key that was passed already.
        return tree_map_only(torch.Tensor, lambda t: known[id(t)] if id(t) in known else Far(t.resolve_conj()), result)


def _near(value):
    return value.near if isinstance(value, Far) else value
