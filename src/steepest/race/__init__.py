"""Races between descent methods: tasks, and the protocol that makes them fair."""

from steepest.race.task import TASKS, Landscape, Task, full_batch, shuffled

__all__ = ["TASKS", "Landscape", "Task", "full_batch", "shuffled"]
