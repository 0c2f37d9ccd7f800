"""Reads files into a configuration, and collects all problems."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from ephemeroot.config import belonging, entries, misplaced, plugins, sources
from ephemeroot.config.model import Configuration, NetworkEntry, Origin, Volume, Wiping
from ephemeroot.config.records import Reading, Record
from ephemeroot.config.syntax import lines, nodes, settings, toml
from ephemeroot.config.syntax.nodes import Node
from ephemeroot.config.syntax.problem import Mistake, Place
from ephemeroot.hooks.plan import POLICIES
from ephemeroot.machine import files
from ephemeroot.machine.facts import Machine


def read(
    machine: Machine, main: str | None = None, drafts: Mapping[str, bytes] | None = None
) -> Configuration:
    """The configuration of *machine*; with *main*, that of this one file. *drafts* has content to
    read instead of files, by path.

    ``problems`` of the result has all errors. Raises ``Misconfigured`` only if there is no
    configuration.
    """
    found = sources.drafted(sources.find(machine.root, main), drafts or {})
    reading = Reading()
    for stray in misplaced.find(machine.root) if main is None else ():
        reading.add(Place(stray.path), "this file is not read", stray.hint, warning=True)
    merged: Node | None = None
    complete = True
    files, elsewhere = [], []
    for source in found:
        node = parse(source, reading)
        if node is not None and not _applies(node, source, machine, reading):
            elsewhere.append(source.path)
            continue
        files.append(source.path)
        if node is None:
            complete = False
        else:
            merged = node if merged is None else nodes.merge(merged, node)
    if merged is None:
        merged = Node({}, Place(found[0].path))
    reading.belongs = partial(belonging.hint, wiper=_named_wiper(merged))
    config = _configuration(merged, tuple(files), complete, reading)
    return replace(
        config,
        elsewhere=tuple(elsewhere),
        set_by_drop_ins=tuple(
            (node.place, tuple(older.place for older in node.overridden))
            for node in nodes.settings(merged)
            if node.place.file != found[0].path
        ),
    )


def parse(source: files.File, reading: Reading) -> Node | None:
    """The content of the file; ``None`` after an error, which is noted."""
    place = Place(source.path)
    if source.error:
        reading.add(place, f"cannot read the file: {source.error}", source.hint)
        return None
    try:
        document, text = toml.parse(source.content)
    except toml.SyntaxMistake as mistake:
        reading.add(Place(source.path, line=mistake.line), mistake.reason, mistake.hint)
        return None
    return nodes.load(document, source.path, lines.locate(text))


def _applies(node: Node, source: files.File, machine: Machine, reading: Reading) -> bool:
    """Whether the file is for this machine. Removes ``match`` from *node*."""
    match = (node.table() or {}).pop("match", None)
    if match is None:
        return True
    if not source.drop_in:
        reason = "[match] is only for drop-ins"
        reading.add(match.place, reason, f"move this part to a file in {sources.DROP_INS[-1]}")
        return True
    record = reading.table(match, settings.MATCH)
    if record is None or record.broken:
        return False
    hosts, ids = record.values["host-name"], record.values["machine-id"]
    if hosts is None and ids is None:
        reading.add(match.place, "[match] is empty", "set host-name or machine-id")
        return False
    # Host names are case-insensitive (RFC 1123), as in ConditionHost= of systemd.unit(5).
    if hosts is not None:
        fits = _fits(machine.host_name, hosts)
        if machine.live_name and _fits(machine.live_name, hosts) != fits:
            reading.add(
                match.place,
                f"the transient host name is {machine.live_name}, but [match] compares the static "
                f"name {machine.host_name}: the file is "
                + ("used" if fits else "for other machines"),
                "run 'hostnamectl' to see both names; the static one is in /etc/hostname",
                warning=True,
            )
        if not fits:
            return False
    return ids is None or machine.machine_id in [i.replace("-", "").lower() for i in ids]


def _fits(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name.lower(), pattern.lower()) for pattern in patterns)


def _named_wiper(merged: Node) -> str:
    root = (merged.table() or {}).get("root", merged)
    named = (root.table() or {}).get("wiper")
    return named.value if named is not None and isinstance(named.value, str) else ""


def _configuration(
    merged: Node, files: tuple[str, ...], complete: bool, reading: Reading
) -> Configuration:
    table = dict(merged.table() or {})
    root = table.pop("root", None)
    top = reading.table(Node(table, merged.place), settings.TOP, also=("root",))
    assert top is not None  # the top of a document is always a table
    wiping, external_boot = _root(root, merged.place, reading, complete and "root" not in top.meant)
    volumes = [_volume(node, reading) for node in top.values["volumes"]]
    stores, disabled = entries.stores(top.values["persistence"], reading)
    on_failure = top.values["on-failure"]
    return Configuration(
        files=files,
        wiping=wiping,
        external_boot=external_boot,
        seed_limit=top.values["seed-limit"],
        on_failure=dict(on_failure.values) if on_failure else {k: w[0] for k, w in
                                                               POLICIES.items()},
        on_package_change=top.values["on-package-change"],
        network=_network(top.values["network"]),
        volumes=tuple(volume for volume in volumes if volume is not None),
        stores=stores,
        disabled=disabled,
        problems=tuple(reading.problems),
        complete=complete and not reading.lost,
    )  # fmt: skip


def _root(
    node: Node | None, top: Place, reading: Reading, is_required: bool
) -> tuple[Wiping | None, bool]:
    if node is None:
        if is_required:
            reading.add(
                Place(top.file, "root.wiper"),
                "the wiper of the root is not set",
                'add [root] with wiper = "btrfs" or another',
            )
        return None, False
    known = plugins.names()
    named = (node.table() or {}).get("wiper")
    # A wiper that is not installed is one error; its table is not another one.
    own_table = [named.value] if named is not None and isinstance(named.value, str) else []
    record = reading.table(node, settings.ROOT, also=[*known, *own_table])
    if record is None:
        return None, False
    name = record.values["wiper"]
    unused = [key for key in known if key != name and key in (node.table() or {})]
    for key in unused:
        # Settings of a wiper that a drop-in has replaced must be valid too.
        table = (node.table() or {})[key]
        _wiping(key, table, record.origin(), reading)
        if named is not None and key not in [older.value for older in named.overridden]:
            reading.add(
                table.place,
                f"this table has no effect: the wiper is {name!r}",
                f'set wiper = "{key}", or remove the table',
                warning=True,
            )
    if name is None:
        return None, record.values["external-boot"]
    own = (node.table() or {}).get(name)
    return _wiping(name, own, record.origin(), reading), record.values["external-boot"]


def _wiping(name: str, node: Node | None, above: Origin, reading: Reading) -> Wiping:
    """``wiper = name`` with its table of the same name, if there is one."""
    try:
        plugin = plugins.find(name)
    except Mistake as mistake:
        reading.add(above.of("wiper"), mistake.reason, mistake.hint)
        return Wiping(name, None, {}, None, None, above)
    if node is None:
        place = Place(above.place.file, f"root.{nodes.quoted(name)}", above.of("wiper").line)
        node = Node({}, place)
    record = reading.table(node, plugin.root_table())
    if record is None:
        return Wiping(name, None, {}, None, None, above)
    own = [option.name for option in plugin.wiper.OPTIONS]
    values = {key: record.values[key] for key in own}
    _validate(plugin, values, record, reading)
    what = {key: None if key in own else record.values.get(key) for key in ("device", "subvolume")}
    return Wiping(name, plugin, values, what["device"], what["subvolume"], record.origin())


def _validate(
    plugin: plugins.Plugin, values: dict[str, Any], record: Record, reading: Reading
) -> None:
    """Let the wiper check its settings, unless some of them are invalid."""
    if record.broken:
        return
    try:
        findings = list(plugin.wiper.validate(dict(values)))
    except Exception as error:  # noqa: BLE001  # third-party code may raise anything
        reason = f"the wiper {plugin.name!r} ({plugin.attribute}) cannot check its settings: "
        reading.add(
            record.place,
            f"{reason}{type(error).__name__}: {error}",
            "repair or reinstall its package",
        )
        return
    for finding in findings:
        place = record.key(finding.key) if finding.key else record.place
        reading.add(place, finding.reason, finding.hint, warning=finding.warning)


def _network(record: Record | None) -> NetworkEntry | None:
    if record is None or record.broken:
        return None
    return NetworkEntry(
        interface=record.values["interface"],
        addresses=tuple(record.values["address"]),
        gateways=tuple(record.values["gateway"]),
        origin=record.origin(),
    )


def _volume(node: Node, reading: Reading) -> Volume | None:
    table = node.table()
    wipe = None if table is None else table.get("wipe")
    record = reading.table(node, settings.VOLUME, also=("wipe",))
    if record is None or record.values["mount-point"] is None:
        reading.lost = True
        return None
    values = record.values
    return Volume(
        mount_point=values["mount-point"],
        device=values["device"] or "",
        type=values["type"] or "",
        options=tuple(values["options"]),
        needed_for_boot=values["needed-for-boot"],
        timeout=values["timeout"],
        wipe=None if wipe is None else _volume_wiping(wipe, values, reading),
        place=record.place,
    )


def _volume_wiping(node: Node, volume: dict[str, Any], reading: Reading) -> Wiping | None:
    named = (node.table() or {}).get("wiper")
    plugin = None
    if named is not None and isinstance(named.value, str):
        try:
            plugin = plugins.find(named.value)
        except Mistake as mistake:
            reading.add(named.place, mistake.reason, mistake.hint)
            return Wiping(named.value, None, {}, None, None, Origin(node.place))
    record = reading.table(node, plugins.volume_table(plugin))
    if record is None or plugin is None:
        return None
    values = {option.name: record.values[option.name] for option in plugin.wiper.OPTIONS}
    _validate(plugin, values, record, reading)
    if not plugin.wiper.ON_DEVICE:
        if "dataset" in values and values["dataset"] is None:
            values["dataset"] = volume["device"]
        return Wiping(plugin.name, plugin, values, None, None, record.origin())
    subvolume = next((o.partition("=")[2] for o in reversed(volume["options"])
                      if o.startswith("subvol=")), "")  # fmt: skip
    return Wiping(
        plugin.name, plugin, values, volume["device"], subvolume.strip("/") or None,
        record.origin(),
    )  # fmt: skip
