"""Records of tensors move as a whole, and what is computed on a device stays there."""

from dataclasses import dataclass
from functools import cached_property

import pytest
import torch

from emulated_device import EmulatedDevice, Far
from steepest.errors import UsageError
from steepest.numerics.device import moved, require_device, working_on


@dataclass(frozen=True, eq=False)
class _Leaf:
    x: torch.Tensor
    name: str = "leaf"

    @cached_property
    def double(self):
        return 2 * self.x


@dataclass(frozen=True, eq=False)
class _Tree:
    leaves: tuple[_Leaf, ...]
    table: dict[str, torch.Tensor]


def test_moved_keeps_structure_and_sharing_and_drops_caches():
    leaf = _Leaf(torch.arange(3.0))
    assert leaf.double[1] == 2
    tree = _Tree((leaf, leaf), {"a": torch.ones(2)})
    with EmulatedDevice():
        there = moved(tree, "meta")
        assert there.leaves[0] is there.leaves[1] is not leaf
        assert isinstance(there.leaves[0].x, Far) and isinstance(there.table["a"], Far)
        assert isinstance(there.leaves[0].double, Far)
        assert there.leaves[0].name == "leaf"
        back = moved(there, "cpu")
    assert torch.equal(back.leaves[0].x, leaf.x) and not isinstance(leaf.x, Far)


def test_the_emulated_device_refuses_mixtures():
    with EmulatedDevice(), working_on("meta"):
        far = torch.ones(3)
        assert isinstance(far, Far) and (far + 1).sum().item() == 6.0
        with pytest.raises(RuntimeError, match="among those on the device"):
            far + torch.ones(3, device="cpu")


@pytest.mark.parametrize("name", ["nowhere", "cuda:99", "meta"])
def test_devices_that_are_not_there_are_refused(name):
    with pytest.raises(UsageError, match=name):
        require_device(name)
