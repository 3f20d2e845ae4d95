"""An index of the plug-in table, so that a registration need not compare with every row."""

from collections.abc import Iterable

from helios.plugins.conflicts import claim_keys, compares
from helios.plugins.discovery import canonical
from helios.plugins.table import Registration


class Index:
    """The ids, claims, plug-ins and constraints of the rows of a table.

    Args:
        rows: the rows, without conflicts.
    """

    def __init__(self, rows: Iterable[Registration] = ()) -> None:
        self._claims: set[str] = set()
        self._plugins: set[int] = set()
        self._ids: set[str] = set()
        self._by_name: dict[str, list[Registration]] = {}
        self._naming_in_after: dict[str, list[Registration]] = {}
        self._may_equal = False
        for row in rows:
            self.add(row)

    def add(self, row: Registration) -> None:
        """Add a row."""
        self._claims |= claim_keys(row)
        self._plugins.add(id(row.plugin))
        self._ids.add(row.id)
        self._by_name.setdefault(canonical(row.id), []).append(row)
        for name in row.after:
            self._naming_in_after.setdefault(canonical(name), []).append(row)
        self._may_equal = self._may_equal or compares(row.plugin)

    def is_free_for(self, row: Registration) -> bool:
        """Return whether a new row has no conflict; if unsure, ``False``."""
        return (
            row.id not in self._ids
            and id(row.plugin) not in self._plugins
            and self._claims.isdisjoint(claim_keys(row))
            and not self._may_equal
            and not compares(row.plugin)
        )

    def followers(self, row: Registration) -> set[Registration] | None:
        """Return all rows that must come after a new row, or ``None`` for a cycle."""
        found: set[Registration] = set()
        waiting = [row]
        while waiting:
            for follower in self._next(waiting.pop(), row):
                if follower is row:
                    return None
                if follower not in found:
                    found.add(follower)
                    waiting.append(follower)
        return found

    def _next(self, row: Registration, newcomer: Registration) -> list[Registration]:
        """Return the rows that name a row in ``after``, or that it names in ``before``."""
        name = canonical(row.id)
        following = list(self._naming_in_after.get(name, ()))
        if name in map(canonical, newcomer.after):
            following.append(newcomer)
        for named in map(canonical, row.before):
            following += self._by_name.get(named, ())
            if named == canonical(newcomer.id):
                following.append(newcomer)
        return following
