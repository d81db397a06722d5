"""Who is still there, after a collective has failed."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch.distributed as dist

from steepest.distributed.lost import LostPeerError

_GRACE = 3.0


def guarded(call: Callable[[], None], hint: str) -> None:
    """Run a collective; where it fails, say which ranks are gone.

    Args:
        call: the collective.
        hint: what to do, the last part of the message.

    Raises:
        LostPeerError: where the collective fails.
    """
    try:
        call()
    except RuntimeError as error:
        raise LostPeerError(f"rank {dist.get_rank()} stops: {_absent()}; {hint}") from error


def _absent() -> str:
    """The survivors sign in at the store; those who have not done so after a while are gone."""
    try:
        store = dist.distributed_c10d._get_default_store()
        ranks = range(dist.get_world_size())
        store.set(f"steepest/alive/{dist.get_rank()}", "1")
        time.sleep(_GRACE)
        lost = [r for r in ranks if not store.check([f"steepest/alive/{r}"])]
    except RuntimeError:
        return "rank 0, which holds the store, is lost"
    return f"lost: rank {', '.join(map(str, lost))}" if lost else "the connection between the processes is lost"
