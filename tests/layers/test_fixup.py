"""The residual block of Fixup."""

import pytest
import torch
from torch import nn

from steepest.layers import FixupResidual


def test_the_block_by_hand():
    first, last = nn.Linear(3, 4, bias=False), nn.Linear(4, 3, bias=False)
    block = FixupResidual([first, nn.ReLU(), last])
    with torch.no_grad():
        block.biases.copy_(torch.tensor([0.1, 0.2, 0.3, 0.4]))
        block.multiplier.fill_(2.0)
    x = torch.randn(5, 3)
    expected = x + 2 * last(torch.relu(first(x + 0.1) + 0.2) + 0.3) + 0.4
    torch.testing.assert_close(block(x), expected)


def test_shapes_that_cannot_be_added():
    with pytest.raises(ValueError, match="projection"):
        FixupResidual([nn.Linear(3, 1, bias=False)])(torch.randn(5, 3))
    assert FixupResidual([nn.Linear(3, 1)], nn.Linear(3, 1))(torch.randn(5, 3)).shape == (5, 1)
    with pytest.raises(ValueError, match="at least one"):
        FixupResidual([])
