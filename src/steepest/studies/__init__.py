"""Claims of the literature, tried here: one file per set of claims, listed in ``table``."""
