"""Groups of rows: what was measured side by side, as it is written down.

Knows figures and their names. Must not know how they were measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from bench.answers import Agreement, Answers
from bench.timing import Timed


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One variant's figures. Seconds are medians over the rounds; `facts` are shares and counts beside them.

    `same` of the `compared` answers are the reference's, and `gated` says that all had to be; `skipped` says why it was not
    measured.
    """

    name: str
    documents: int = 0
    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0
    compared: int = 0
    rounds: int = 0
    spread: float = 0.0
    facts: Mapping[str, float] = field(default_factory=dict)
    same: int | None = None
    near_ties: int = 0
    largest_difference: float | None = None
    gated: bool = False
    holds: bool = True
    skipped: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Rows measured in turn on one corpus. `reference` is the row that the others' answers were held against; `by_wall`
    says that rates and ratios go by wall seconds, where several cores or processes took part."""

    key: str
    title: str
    corpus: str
    reference: str
    rows: Sequence[Row]
    facts: Mapping[str, float] = field(default_factory=dict)
    notes: Sequence[str] = ()
    by_wall: bool = False

    def seconds(self, row: Row) -> float:
        """The seconds that a row's rate and ratios go by."""
        return row.wall_seconds if self.by_wall else row.cpu_seconds

    def rate(self, row: Row) -> float:
        """The row's documents a second."""
        return row.documents / self.seconds(row)

    def row(self, name: str) -> Row | None:
        """The row of a name that was measured."""
        return next((row for row in self.rows if row.name == name and row.skipped is None), None)

    @property
    def faults(self) -> list[str]:
        """The rows whose answers had to be the reference's and are not."""
        return [
            f"{self.title}: {row.name} agrees with {self.reference} on {row.same} of {row.compared}"
            + ("" if row.largest_difference is None else f", scores within {row.largest_difference:.1e}")
            for row in self.rows
            if row.gated and not row.holds
        ]


def row_of(timed: Timed[Answers], documents: int, agreement: Agreement, *, gated: bool, **facts: float) -> Row:
    """A variant's row from its times and its agreement with the reference."""
    return Row(
        name=timed.name, documents=documents, cpu_seconds=timed.cpu_seconds, wall_seconds=timed.wall_seconds,
        rounds=len(timed.cpu), spread=max(timed.cpu) / min(timed.cpu) - 1, facts={**timed.output.facts, **facts},
        compared=agreement.n, same=agreement.same, near_ties=agreement.near_ties,
        largest_difference=agreement.largest_difference,
        gated=gated, holds=agreement.holds,
    )  # fmt: skip


def optional(name: str, make: Callable[[], Any]) -> tuple[Any, Row | None]:
    """What `make` makes, or None and a row that says why it cannot be had here."""
    try:
        return make(), None
    except ImportError as error:
        return None, Row(name=name, skipped=f"not installed: {error.name or error}")
    except Exception as error:  # noqa: BLE001 — another program's fault is a line in the table, not the end of the run
        return None, Row(name=name, skipped=f"{type(error).__name__}: {str(error).strip().splitlines()[0][:160]}")


def as_json(group: Group) -> dict[str, Any]:
    """The group as plain JSON."""
    return asdict(group)


def from_json(data: Mapping[str, Any]) -> Group:
    """The group that `as_json` wrote."""
    return Group(**{**data, "rows": [Row(**row) for row in data["rows"]]})
