"""The theories as questions asked of an observed run: one probe each."""

from steepest.monitors.observed.adam_type import AdamTypeProbe as AdamTypeProbe
from steepest.monitors.observed.adam_type import AdamTypeRecord as AdamTypeRecord
from steepest.monitors.observed.deep_linear import DeepLinearProbe as DeepLinearProbe
from steepest.monitors.observed.deep_linear import DeepLinearRecord as DeepLinearRecord
from steepest.monitors.observed.defaults import cheap_probes as cheap_probes
from steepest.monitors.observed.defaults import dear_probes as dear_probes
from steepest.monitors.observed.descent import DescentProbe as DescentProbe
from steepest.monitors.observed.descent import DescentRecord as DescentRecord
from steepest.monitors.observed.gradients import GradientPathProbe as GradientPathProbe
from steepest.monitors.observed.gradients import GradientPathRecord as GradientPathRecord
from steepest.monitors.observed.kernel import KernelProbe as KernelProbe
from steepest.monitors.observed.kernel import KernelRecord as KernelRecord

__all__ = [
    "AdamTypeProbe",
    "AdamTypeRecord",
    "DeepLinearProbe",
    "DeepLinearRecord",
    "DescentProbe",
    "DescentRecord",
    "GradientPathProbe",
    "GradientPathRecord",
    "KernelProbe",
    "KernelRecord",
    "cheap_probes",
    "dear_probes",
]
