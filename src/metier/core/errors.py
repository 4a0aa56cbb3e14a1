"""The error tree. The first digit of a code is the exit code of the command.

    MetierError
    ├── Bug               E1xx  our mistake; always shown with its traceback
    ├── ConfigError       E2xx  the recipe, a flag, the project file
    ├── DataError         E3xx  rows, datasets, splits
    │   └── RowError            one bad row: quarantined, counted, never fatal alone
    ├── MachineError      E4xx  memory, disk, missing packages, files of a model
    ├── GateError         E5xx  a target or gate that was missed
    └── PermissionDenied  E6xx  licence, consent, purpose

Exit codes beyond these: 0 ok, 130 interrupted by Ctrl+C, 143 by SIGTERM.

Every error says *what is wrong, where, what was received, what was expected, what to do next*.
Row content never goes into an error: it may be personal data. Names of fields, counts and places do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar


class MetierError(Exception):
    """An error with a stable code, shown to a user without a traceback.

    Args:
        number: three digits; the first one must be the digit of the class.
        what: one sentence that says what is wrong, without a full stop at the end.
        place: `recipe.yaml:14`, `train.csv:1204`, a path or an id; empty when there is none.
        received: what was found, shortened by the caller.
        expected: what would have been right.
        fix: the next step, preferably a command.
    """

    digit: ClassVar[int] = 1

    def __init__(
        self,
        number: int,
        what: str,
        *,
        place: str = "",
        received: str = "",
        expected: str = "",
        fix: str = "",
    ) -> None:
        if number // 100 != self.digit:
            raise ValueError(f"E{number} does not belong to {type(self).__name__} (E{self.digit}xx)")
        self.number = number
        self.what = what
        self.place = place
        self.received = received
        self.expected = expected
        self.fix = fix
        super().__init__(str(self))

    @property
    def code(self) -> str:
        """The stable code, such as `E310`."""
        return f"E{self.number}"

    @property
    def exit_code(self) -> int:
        """What the command exits with: the first digit of the code."""
        return self.digit

    def __str__(self) -> str:
        head = f"{self.code} {self.what}"
        if self.place:
            head += f"  {self.place}"
        details = [
            f"     {label}: {value}"
            for label, value in (
                ("received", self.received),
                ("expected", self.expected),
                ("next", self.fix),
            )
            if value
        ]
        return "\n".join([head, *details])

    def to_json(self) -> dict[str, str]:
        """Return the error as the object that `--json` prints."""
        return {
            "code": self.code,
            "what": self.what,
            "place": self.place,
            "received": self.received,
            "expected": self.expected,
            "fix": self.fix,
        }

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions with keyword arguments do not survive a process boundary without this.
        return (_rebuild, (type(self), self.number, self.to_json()))


class Bug(MetierError):
    """Something that must not happen whatever the user does."""

    digit = 1


class ConfigError(MetierError):
    """The recipe, the project file, a flag or a reference is wrong."""

    digit = 2


class DataError(MetierError):
    """Rows, a dataset version or a split cannot be used."""

    digit = 3


class RowError(DataError):
    """One row cannot be used. Caught by the reader, which puts the row into quarantine.

    Args:
        reason: a short, stable class name in kebab case, such as `no-assistant-message`; rows are counted by it.
        field: the field at fault, dotted (`messages.2.content`); empty when the whole row is.
        what: one sentence without any content of the row.
    """

    def __init__(self, reason: str, what: str, *, field: str = "", place: str = "") -> None:
        self.reason = reason
        self.field = field
        super().__init__(311, what, place=place, received=f"field `{field}`" if field else "")

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild_row, (self.reason, self.what, self.field, self.place))


class MachineError(MetierError):
    """The machine cannot do it: memory, disk, permissions, a package or a model file that is missing."""

    digit = 4


class GateError(MetierError):
    """A target or a gate was missed."""

    digit = 5


class PermissionDenied(MetierError):
    """A source may not be used for this purpose."""

    digit = 6


def from_json(value: Mapping[str, Any]) -> MetierError:
    """Return the error that `to_json` wrote down, such as that of a run's worker; parts that are missing are empty."""
    number = int(str(value["code"]).removeprefix("E"))
    kinds = (Bug, ConfigError, DataError, MachineError, GateError, PermissionDenied)
    kind = next(k for k in kinds if k.digit == number // 100)
    parts = {name: str(value.get(name, "")) for name in ("place", "received", "expected", "fix")}
    return kind(number, str(value.get("what", "")), **parts)


def _rebuild(kind: type[MetierError], number: int, fields: dict[str, str]) -> MetierError:
    return kind(
        number,
        fields["what"],
        place=fields["place"],
        received=fields["received"],
        expected=fields["expected"],
        fix=fields["fix"],
    )


def _rebuild_row(reason: str, what: str, field: str, place: str) -> RowError:
    return RowError(reason, what, field=field, place=place)
