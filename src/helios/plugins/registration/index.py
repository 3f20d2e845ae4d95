"""An index of the plug-in table, so that a registration need not compare with every row."""

from collections.abc import Iterable, Mapping

from helios.errors import PluginOrderError, raise_all
from helios.plugins.discovery.metadata import canonical
from helios.plugins.plans.plan import Inactive
from helios.plugins.registration.conflicts import claim_keys, compares, resolve
from helios.plugins.registration.declared_hooks import check_declared_hooks
from helios.plugins.registration.order import in_order, insert
from helios.plugins.registration.requirements import check_requirements
from helios.plugins.registration.table import Registration


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

    def insert(
        self, row: Registration, rows: Mapping[str, Registration]
    ) -> dict[str, Registration] | None:
        """Add a new row, and return the table with it; ``None`` if it needs a whole comparison.

        Args:
            row: the row.
            rows: the table, in order.
        """
        followers = self._followers(row) if self._is_free_for(row) else None
        if followers is None:
            return None
        self.add(row)
        if not followers:
            return {**rows, row.id: row}
        order = insert(list(rows.values()), row, followers)
        return {other.id: other for other in order}

    def _is_free_for(self, row: Registration) -> bool:
        """Return whether a new row has no conflict; if unsure, ``False``."""
        return (
            not (row.requires or row.declares or row.foreign)
            and row.id not in self._ids
            and id(row.plugin) not in self._plugins
            and self._claims.isdisjoint(claim_keys(row))
            and not self._may_equal
            and not compares(row.plugin)
        )

    def _followers(self, row: Registration) -> set[Registration] | None:
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


def resolved(
    rows: Iterable[Registration], skip: bool = False
) -> tuple[list[Registration], list[Inactive]]:
    """Return the ordered rows and the inactive plug-ins, or raise all problems.

    Args:
        rows: the rows of the table, and new ones.
        skip: ``True`` to make autoloaded plug-ins inactive whose hooks nobody declares.
    """
    kept, inactive, problems = resolve(rows)
    kept, lacking, unmet = check_requirements(kept)
    kept, failed, unknown = check_declared_hooks(kept, skip)
    inactive, problems = [*inactive, *lacking, *failed], [*problems, *unmet, *unknown]
    if failed:  # others may require them
        kept, lacking, unmet = check_requirements(kept)
        inactive, problems = [*inactive, *lacking], [*problems, *unmet]
    try:
        order = in_order(kept)
    except PluginOrderError as problem:
        problems.append(problem)
    raise_all(problems)
    return order, inactive
