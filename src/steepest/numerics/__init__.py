"""Pure tensor mathematics with rounding accounted for; knows nothing of networks."""
