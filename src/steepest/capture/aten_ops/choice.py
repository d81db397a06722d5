"""Softmax, sorting, masks, attention."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from steepest import ops
from steepest.capture.aten_ops.call import Call, lowers
from steepest.capture.builder import Ref, Value


@lowers("softmax", "_softmax", "_safe_softmax", "log_softmax", "_log_softmax")
def _softmax(c: Call) -> Ref:
    return c.builder.softmax(c.live(), c.get("dim") % len(c.live().shape), log="log" in c.builder.operator)


@lowers("sort")
def _sort(c: Call) -> Any:
    b, x = c.builder, c.live()
    axis = c.get("dim", -1) % len(x.shape)
    last = b.move_last(x, axis)
    y = b.append(ops.GroupSort((last.shape,)), last)
    if c.get("descending", False):
        y = b.select(y, lambda t: t.flip(-1))
    return (b.move_last(y, axis), None)


@lowers("where")
def _where(c: Call) -> Value:
    condition = c.args[0]
    if not isinstance(condition, Tensor):
        raise c.builder.refuse("a choice by live values may leap, so it is no Lipschitz map")
    return c.builder.where(condition, c.value(1), c.value(2))


@lowers("masked_fill")
def _masked_fill(c: Call) -> Value:
    mask = c.args[1]
    if not isinstance(mask, Tensor):
        raise c.builder.refuse("a mask of live values may leap, so it is no Lipschitz map")
    return c.builder.where(mask, c.value(2), c.live())


@lowers("scaled_dot_product_attention", "_scaled_dot_product_flash_attention_for_cpu")
def _attention(c: Call) -> Any:
    b = c.builder
    q, k, v = (c.args[i] for i in range(3))
    if not all(isinstance(t, Ref) for t in (q, k, v)):
        q, k, v = (t if isinstance(t, Ref) else b.constant(next(r for r in (q, k, v) if isinstance(r, Ref)), t) for t in (q, k, v))
    scale = c.get("scale", None)
    scale = 1.0 / math.sqrt(q.shape[-1]) if scale is None else scale
    if c.get("dropout_p", 0.0):
        raise b.refuse("dropout is random, so the network is no fixed map")
    if c.get("enable_gqa", False):
        raise b.refuse("grouped queries are not understood")
    scores = b.scale(b.matmul(q, b.move_second_last(k)), scale)
    allowed, mask = None, c.get("attn_mask", None)
    if isinstance(mask, Ref):
        raise b.refuse("its mask depends on the input")
    if c.get("is_causal", False):
        allowed = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
    if mask is not None:
        if mask.dtype == torch.bool:
            allowed = mask
        else:
            finite = torch.where(torch.isfinite(mask), mask, 0.0)
            allowed = ~torch.isneginf(mask)
            scores = b.scale(scores, 1.0, finite)
    if allowed is not None and not allowed.any(-1).all():
        raise b.refuse("a row of its mask allows nothing")
    y = b.matmul(b.softmax(scores, len(scores.shape) - 1, allowed=allowed), v)
    return (y, None) if "flash" in b.operator else y
