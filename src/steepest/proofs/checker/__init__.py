"""The trusted part: own intervals, own operators, own norms. Nothing here is shared with what produced the bound."""
