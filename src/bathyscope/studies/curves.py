"""Curves over layers: what a study wants drawn. Knows no drawing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self


@dataclass(frozen=True)
class Curve:
    """One value a layer.

    Args:
        name: what it is, for people.
        layers: lowest first; -1 is the embedding.
        values: one a layer.
        intervals: [low, high] a layer; empty where there are none.
        control: whether it is something to compare with, which is drawn more quietly.
    """

    name: str
    layers: tuple[int, ...]
    values: tuple[float, ...]
    intervals: tuple[tuple[float, float], ...] = ()
    control: bool = False

    @classmethod
    def of(cls, name: str, records: Sequence[Mapping[str, Any]], field: str, *, control: bool = False) -> Self | None:
        """The curve of one field of records of layers, with its interval where they have one.

        Args:
            name: what it is.
            records: with "layer"; those that lack the field are left out.
            field: of the records; "FIELD_interval" is its interval.
            control: as above.

        Returns:
            None where no record has the field.

        Example:
            >>> from bathyscope.studies.curves import Curve
            >>> records = [{"layer": 0, "share": 0.5, "share_interval": [0.4, 0.6]}, {"layer": 1}]
            >>> Curve.of("words", records, "share")
            Curve(name='words', layers=(0,), values=(0.5,), intervals=((0.4, 0.6),), control=False)
        """
        there = [record for record in records if record.get(field) is not None]
        if not there:
            return None
        bounds = [interval for record in there if (interval := record.get(f"{field}_interval"))]
        return cls(
            name,
            tuple(record["layer"] for record in there),
            tuple(record[field] for record in there),
            tuple((low, high) for low, high in bounds) if len(bounds) == len(there) else (),
            control,
        )


@dataclass(frozen=True)
class Panel:
    """Curves that share an axis.

    Args:
        title: what the axis measures.
        curves: in the order of the legend.
    """

    title: str
    curves: tuple[Curve, ...]


class Drawable(Protocol):
    """A study that says what is to be drawn of it."""

    heading: ClassVar[str]

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Where it comes from."""
        ...

    @property
    def records(self) -> tuple[Mapping[str, Any], ...]:
        """Its measurements."""
        ...

    def panels(self) -> tuple[Panel, ...]:
        """What is drawn, from left to right."""
        ...
