"""The look-up of declared paths: resolved links, ids of users and groups, homes."""

from __future__ import annotations

import os
from dataclasses import replace

from ephemeroot.config import sources
from ephemeroot.config.declared import OURS, WELL_KNOWN, Declared, Home, Owner, Wanted
from ephemeroot.config.model import Configuration, Entry, Origin, StoreEntry, UserEntry
from ephemeroot.config.resolution import DirectoryCache, Roots
from ephemeroot.config.syntax import clean
from ephemeroot.config.syntax.problem import Mistake, Place, Problem
from ephemeroot.config.syntax.settings import Binding, DirectoryOptions, Options, Permissions
from ephemeroot.errors import Damaged
from ephemeroot.hooks import plan as plans
from ephemeroot.hooks.operation import Persisted
from ephemeroot.linux import paths
from ephemeroot.machine.accounts import Accounts, User
from ephemeroot.machine.facts import Machine

_PEOPLE = range(1000, 60000)
"""User numbers of people (login.defs(5), UID_MIN and UID_MAX)."""

_WHERE = "add it to /etc/passwd or /etc/group of this machine's root"

_PRIVATE = frozenset((
    ".ssh", ".gnupg", ".pki", ".password-store", ".aws", ".kube",
    ".local/share/keyrings", ".local/share/kwalletd",
))  # fmt: skip
"""Directories in a home that their programs create with mode 0700, to protect the files in them."""
_PRIVATE_ENDS = tuple(f"/{name}" for name in _PRIVATE)


class Resolver:
    """Resolves one configuration on one machine; errors go to ``problems``.

    Paths are resolved in *roots*, by default only in the live root.
    """

    def __init__(
        self,
        config: Configuration,
        machine: Machine,
        problems: list[Problem],
        roots: Roots | None = None,
    ) -> None:
        self._top = DirectoryCache()
        self.config = config
        self.machine = machine
        self.accounts = machine.accounts
        self.problems = problems
        stores = [store.path for store in config.stores]
        self.roots = Roots(machine.root, stores=stores) if roots is None else roots
        self.applied = {} if machine.another else _applied(machine)
        self._keep()
        self.homes = {}
        for home in _peoples_homes(machine.accounts):
            path = self._resolve(home.path)
            self.homes[path] = replace(home, path=path)
        self.declared: list[Declared] = []

    def resolve(self) -> None:
        """Fill ``declared`` and ``homes``."""
        users = [(store, user, self._user(user)) for store in self.config.stores
                 for user in store.users]  # fmt: skip
        for store in self.config.stores:
            for entry in store.entries:
                self._system_entry(store, entry)
        for store, user, found in users:
            if found is not None:
                binding = user.binding.under(store.binding)
                for entry in user.entries:
                    self._users_entry(store, entry, found, binding)
        self._keep_ours()

    def _user(self, entry: UserEntry) -> User | None:
        """The user with the configured home, which is added to ``homes``."""
        user = self.accounts.user(entry.name)
        if user is None:
            hint = clean.close(entry.name, self._people()) or _WHERE
            self._add(entry.origin.place, f"unknown user `{entry.name}`", hint)
            return None
        if entry.home is not None:
            user = replace(user, home=entry.home)
        try:
            home = clean.absolute(user.home)
        except Mistake as mistake:
            reason = f"cannot use the home of {user.name}: {mistake.reason}"
            self._add(entry.origin.place, reason, "set home")
            return None
        if home == "/":
            reason = f"cannot use the home of {user.name}: it is /"
            self._add(entry.origin.place, reason, "set home")
            return None
        place = self._resolve(home)
        self.homes[place] = Home(place, user.uid, user.gid)
        return replace(user, home=home)

    def _resolve(self, path: str, *, follow_last: bool = True, live: bool = False) -> str:
        """*path* resolved in the next root; unchanged for another machine, whose links are not
        known.
        """
        if self.machine.another:
            return path
        return self.roots.resolve(path, follow_last=follow_last, live=live)

    def _keep(self) -> None:
        """Set ``roots.kept``: the content of declared directories in the next root is from a store,
        or is seeded from the live root.
        """
        if self.machine.another or self.roots.base is None:
            return
        found = [
            (self._store(store, entry, quiet=True), entry)
            for store in self.config.stores
            for entry in store.entries
            if entry.is_directory
        ]
        found.sort(key=lambda pair: clean.components(pair[1].path))
        before = -1
        while before != len(self.roots.kept):  # a link may lead into a path that is declared later
            before = len(self.roots.kept)
            for store, entry in found:
                path = self._resolve(entry.path, follow_last=entry.options.method != "symlink")
                content = self._content(store, entry, path)
                if content:
                    self.roots.kept.setdefault(path, content)

    def _content(self, store: str, entry: Entry, path: str) -> str:
        """The directory with the content of *path* in the next root; empty if the base has it."""
        if entry.options.method == "overlay":  # the base is below it
            return path if os.path.ismount(self.machine.show(path)) else ""
        for name in (entry.path, path):
            if self._has(self.machine.show(store), name):
                return f"{store.rstrip('/')}{name}"
        seeded = entry.options.initial == "previous" and os.path.isdir(self.machine.show(path))
        return path if seeded else ""

    def _source(self, store: str, entry: Entry, written: str, live: str, place: str) -> str:
        """The path in the store. An existing one is kept, even if links led elsewhere when it was
        made: the applied plan has it.
        """
        used = self.applied.get((store, place)) or self.applied.get((store, live))
        for older in (used, written[1:], live[1:]):
            if older and self._has(self.machine.show(store), older):
                return older
        if used and entry.options.method == "copy" and os.path.lexists(self.machine.show(live)):
            return used  # the file is copied back to this path
        return place[1:]

    def _has(self, store: str, path: str) -> bool:
        """Whether the directory *store* has *path*, without following links, as at boot."""
        flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
        try:
            top = self._top.get(store, lambda: os.open(store, flags))
            os.close(paths.open_beneath(top, path, os.O_PATH | os.O_NOFOLLOW))
        except OSError:
            return False
        return True

    def _people(self) -> list[str]:
        return [user.name for user in self.accounts.users.values() if user.uid in _PEOPLE]

    def _system_entry(self, store: StoreEntry, entry: Entry) -> None:
        place = self._resolve(entry.path)
        home = self.homes.get(place) if entry.is_directory else None
        mode = WELL_KNOWN.get(entry.path, 0o755)
        if place.endswith(_PRIVATE_ENDS) and self._is_private(place):
            mode = 0o700
        default = Owner(home.user, home.group, 0o700) if home else Owner(0, 0, mode)
        self._entry(store, entry, entry.path, default, store.binding)

    def _is_private(self, place: str) -> bool:
        """Whether *place* is a directory of a home that only the user may enter."""
        ends = [end for end in _PRIVATE_ENDS if place.endswith(end)]
        return any(place.removesuffix(end) in self.homes for end in ends)

    def _users_entry(self, store: StoreEntry, entry: Entry, user: User, above: Binding) -> None:
        default = Owner(user.uid, user.gid, 0o700 if entry.path in _PRIVATE else 0o755)
        self._entry(store, entry, f"{user.home}/{entry.path}", default, above)

    def _entry(
        self, store: StoreEntry, entry: Entry, path: str, default: Owner, above: Binding
    ) -> None:
        wanted = self._numbers(entry.options, entry.origin)
        parent = self._numbers(entry.options.parent_directory, entry.parent_origin)
        # The upper directory of an overlay has the attributes of the base's directory by default.
        if entry.is_directory and entry.options.method != "overlay":
            full = wanted.over(default)
            wanted = Wanted(full.user, full.group, full.mode)
        follow_last = entry.is_directory and entry.options.method != "symlink"
        place = self._resolve(path, follow_last=follow_last)
        live = self._resolve(path, follow_last=follow_last, live=True)
        where = self._store(store, entry)
        declared = Declared(
            path=place,
            live=live,
            declared=path,
            source=self._source(where, entry, path, live, place),
            store=where,
            owner=wanted,
            parent=parent,
            parent_place=entry.parent_origin.place,
            options=entry.options.under(above),
            place=entry.origin.place,
            given=frozenset(entry.origin.keys) - {"directory", "file"},
        )
        try:
            clean.require_length(declared.in_store)
        except Mistake as mistake:
            reason = f"cannot store it in {where}: {mistake.reason}"
            self._add(declared.place, reason, "use a shorter path")
            return
        self.declared.append(declared)

    def _store(self, store: StoreEntry, entry: Entry, *, quiet: bool = False) -> str:
        """The path of the store, or of the other store in the entry."""
        wanted = entry.options.store
        if wanted is None:
            return store.path
        known = [declared.path for declared in self.config.stores]
        if wanted in known:
            return wanted
        if quiet:
            return store.path
        place = entry.origin.of("store")
        if wanted in self.config.disabled:
            self._add(place, f"the store {wanted} is not enabled", "remove its enable = false")
        elif self.config.complete:
            hint = f'declare [persistence."{wanted}"], or name a declared store'
            self._add(place, f"{wanted} is not a declared store", hint)
        return store.path

    def _numbers(self, wanted: Permissions | Options, origin: Origin) -> Wanted:
        """*wanted* with ids instead of names."""
        user = group = None
        if wanted.user is not None:
            user = self.accounts.uid(wanted.user)
            if user is None:
                hint = clean.close(str(wanted.user), self.accounts.users) or _WHERE
                self._add(origin.of("user"), f"unknown user `{wanted.user}`", hint)
        if wanted.group is not None:
            group = self.accounts.gid(wanted.group)
            if group is None:
                hint = clean.close(str(wanted.group), self.accounts.groups) or _WHERE
                self._add(origin.of("group"), f"unknown group `{wanted.group}`", hint)
        return Wanted(user, group, wanted.mode)

    def _keep_ours(self) -> None:
        """Make /etc/ephemeroot persistent in the first store, unless it is declared."""
        covered = any(clean.is_below(OURS, d.path) for d in self.declared if d.is_directory)
        if covered or not self.config.stores:
            return
        store = self.config.stores[0]
        place = store.origin.place
        self.declared.append(
            Declared(
                path=OURS,
                live=OURS,
                declared=OURS,
                source=OURS[1:],
                store=store.path,
                owner=Wanted(0, 0, 0o755),
                parent=Wanted(),
                parent_place=place,
                options=DirectoryOptions(hide_mounts=store.binding.hide_mounts),
                place=place,
            )
        )

    def _add(self, place: Place, reason: str, hint: str = "") -> None:
        self.problems.append(Problem.at(place, reason, hint))


def _applied(machine: Machine) -> dict[tuple[str, str], str]:
    """The paths in the stores by the applied plan; empty if it cannot be read."""
    try:
        plan = plans.load(machine.show(sources.PLAN))
    except Damaged:
        return {}
    return {
        (operation.store, operation.path): operation.source
        for operation in plan.persist
        if isinstance(operation, Persisted)
    }


def _peoples_homes(accounts: Accounts) -> list[Home]:
    return [
        Home(user.home.rstrip("/"), user.uid, user.gid)
        for user in accounts.users.values()
        if user.uid in _PEOPLE and user.home.rstrip("/").count("/") > 1
    ]
