"""A change to a training run that needs no change to its script."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar

from steepest.fixes.seams import Seams


@dataclass(frozen=True)
class Intervention:
    """A change made at the hooks; subclasses are frozen dataclasses of numbers and words.

    ``new_loss`` says whether the values of the loss mean something else under the change, so that other metrics have to be compared.
    """

    new_loss: ClassVar[bool] = False
    kinds: ClassVar[dict[str, type[Intervention]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Enter the class into the table by which a child process finds it."""
        super().__init_subclass__(**kwargs)
        Intervention.kinds[cls.__name__] = cls

    @property
    def words(self) -> str:
        """What is changed, in words that finish "tried: "."""
        raise NotImplementedError

    @property
    def other_loss(self) -> bool:
        """Whether the loss of the changed run is another function."""
        return type(self).new_loss

    def attach(self, seams: Seams) -> None:
        """Enter the change at the seams of the run."""
        raise NotImplementedError

    def to_json(self) -> dict[str, Any]:
        """The JSON form, from which ``from_json`` makes it again."""
        return {"kind": type(self).__name__, "options": {f.name: getattr(self, f.name) for f in fields(self)}}

    @staticmethod
    def from_json(data: dict[str, Any]) -> Intervention:
        """The intervention that ``to_json`` wrote."""
        if data["kind"] == "Several":
            return Several(tuple(Intervention.from_json(p) for p in data["options"]["parts"]))
        return Intervention.kinds[data["kind"]](**data["options"])


@dataclass(frozen=True)
class Several(Intervention):
    """Changes made together.

    Args:
        parts: they, in the order in which they are attached.
    """

    parts: tuple[Intervention, ...] = ()

    @property
    def words(self) -> str:
        """All of them."""
        return " and ".join(p.words for p in self.parts)

    @property
    def other_loss(self) -> bool:
        """Whether one of them changes the loss."""
        return any(p.other_loss for p in self.parts)

    def attach(self, seams: Seams) -> None:
        """Attach all."""
        for part in self.parts:
            part.attach(seams)

    def to_json(self) -> dict[str, Any]:
        """The JSON form."""
        return {"kind": "Several", "options": {"parts": [p.to_json() for p in self.parts]}}
