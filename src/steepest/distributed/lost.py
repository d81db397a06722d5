"""The error of a lost peer."""

from steepest.errors import SteepestError


class LostPeerError(SteepestError):
    """A process of the run has died, was cut off, or kept silent for longer than the others wait."""

    exit_code = 4
