"""In which order entries are seeded, compared and copied: root's first, then user after user.

A user's entry is one below a directory that the plan gives to a user, such as a home. Parents
still come before children: everything under such a directory belongs to the user.
"""

from __future__ import annotations

from ephemeroot.hooks import limits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ephemeroot.hooks.operation import Operation

ROOT = 0


class Owners:
    """Whose entry is what, by the *operations* of a plan."""

    __slots__ = ("_owned",)

    def __init__(self, operations: list[Operation]) -> None:
        self._owned: dict[str, int] = {}
        for operation in operations:
            if operation.KIND in ("parent", "directory"):
                user = getattr(operation, "user", ROOT)
                if user != ROOT:
                    self._owned[getattr(operation, "path", "")] = user

    def of(self, path: str) -> int:
        """The number of the user whose entry *path* is; ``ROOT`` for root's."""
        parts = path.strip("/").split("/")
        for count in range(1, len(parts)):
            user = self._owned.get("/" + "/".join(parts[:count]))
            if user is not None:
                return user
        return ROOT


class Group:
    """The *operations* of one *user* (a number), in the plan's order."""

    __slots__ = ("operations", "user")

    def __init__(self, user: int, operations: list[Operation]) -> None:
        self.user = user
        self.operations = operations


def grouped(operations: list[Operation], owners: Owners | None = None) -> list[Group]:
    """Root's operations, then each user's in the order in which they first appear, then those
    that are about many paths at once (``Hide``).
    """
    owners = owners or Owners(operations)
    groups: dict[int, list[Operation]] = {ROOT: []}
    last: list[Operation] = []
    for operation in operations:
        if hasattr(operation, "paths"):
            last.append(operation)
            continue
        user = owners.of(getattr(operation, "path", "/"))
        groups.setdefault(user, []).append(operation)
    found = [Group(user, listed) for user, listed in groups.items()]
    return [*found, Group(ROOT, last)]


def deferred(
    operations: list[Operation], owners: Owners, is_long: Callable[[Operation], bool]
) -> list[Group]:
    """The plan's own order, in which everything is attached and bound, but for users' entries that
    have to be seeded or copied (*is_long*) and paths under those, which come after it.
    """
    first: list[Operation] = []
    later: list[Operation] = []
    above: list[str] = []
    for operation in operations:
        path = getattr(operation, "path", "/")
        is_users = owners.of(path) != ROOT
        if is_users and (is_long(operation) or path.startswith(tuple(above))):
            above.append(f"{path}/")
            later.append(operation)
        elif hasattr(operation, "paths"):
            later.append(operation)
        else:
            first.append(operation)
    return [Group(ROOT, first), *grouped(later, owners)]


def timed(groups: list[Group], seconds: float) -> Iterator[tuple[Group, float]]:
    """Each group, when its turn comes, with its deadline (``time.monotonic()``)."""
    allowed = limits.Time(seconds)
    waiting = sum(group.user != ROOT for group in groups)
    for group in groups:
        if group.user == ROOT:
            yield group, allowed.end
        else:
            yield group, allowed.share(waiting)
            waiting -= 1
