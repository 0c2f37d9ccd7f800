"""Which files of a btrfs subvolume changed since a transaction, from its tree alone.

A snapshot shares its tree with its source until something is written, and each leaf knows
the transaction that wrote it: the search passes over everything that is unchanged. See
ioctl_search_key in include/uapi/linux/btrfs.h and the items in btrfs_tree.h.
"""

from __future__ import annotations

import errno
import struct
import sys

from ephemeroot.linux import ioctl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_BUFFER = 1 << 20
_LARGEST = 1 << 16  # no item is larger than a node, and no node than this
_TREE_SEARCH_V2 = ioctl.both(0x94, 17, 112)
_KEY = struct.Struct("=7Q4I4Q")
_SIZE = _KEY.size + 8  # struct btrfs_ioctl_search_args_v2 without its buffer
_HEADER = struct.Struct("=QQQII")
_TOP = 2**64 - 1

_INODE_ITEM = 1
_INODE_REF = 12
_INODE_EXTREF = 13

_TRANSACTION = struct.Struct("<QQ")  # at the beginning of an inode item: generation, transid
_CTIME = struct.Struct("<QI")
_CTIME_AT = 112 + 12  # behind atime in struct btrfs_inode_item
_INODE_SIZE = 160  # struct btrfs_inode_item
_FIRST = 256  # the subvolume's own directory

MOST = 20_000
"""How many inodes are worth being looked up one by one. To find out that it is more takes a tenth
of the time of a walk of a usual root.
"""


def since(
    fd: int,
    transaction: int,
    *,
    origin: int = -1,
    changed_after: float = 0.0,
    most: int = MOST,
) -> set[int] | None:
    """The inode numbers of all inodes written in the subvolume of *fd* in *transaction* or
    later, and of all directories above. A deletion shows in the directory.

    Reading alone is ignored (it writes the atime): a file with the same ctime in
    the open *origin*, of which this is a snapshot, or has not changed since *changed_after*, in
    seconds since 1970. ``None`` if it is more than *most*: looking at everything is quicker
    then. Needs CAP_SYS_ADMIN. Raises ``OSError``.
    """
    found: set[int] = set()
    doubtful: list[tuple[int, bytes]] = []
    for inode, item in _written(fd, transaction, changed_after):
        if origin < 0 or _TRANSACTION.unpack_from(item)[0] >= transaction:
            found.add(inode)
        else:
            doubtful.append((inode, bytes(item)))
        # Before anything is looked up: it would be for nothing.
        if len(found) > most or len(doubtful) > most:
            return None
    origins = _Inodes(origin)
    found.update(inode for inode, item in doubtful if not origins.has(inode, item))
    above = _Above(fd)
    for inode in list(found):
        above.add(inode, found)
    return found


def _written(fd: int, transaction: int, changed_after: float) -> Iterator[tuple[int, memoryview]]:
    buffer = bytearray(_SIZE + _BUFFER)
    search = _search(fd, buffer, (_FIRST, _TOP), (_INODE_ITEM, _INODE_ITEM), transaction)
    for inode, kind, _, item in search:
        if kind != _INODE_ITEM or _TRANSACTION.unpack_from(item)[1] < transaction:
            continue
        seconds, nanoseconds = _CTIME.unpack_from(item, _CTIME_AT)
        if seconds + nanoseconds / 1e9 > changed_after:
            yield inode, item


class _Inodes:
    """Looks up inodes in an open subvolume, one by one."""

    __slots__ = ("buffer", "fd")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.buffer = bytearray(_SIZE + _HEADER.size + _INODE_SIZE)

    def has(self, inode: int, item: bytes) -> bool:
        """Whether it has the same *inode*, changed at the same moment.

        Two inodes of one number made apart differ in their generation.
        """
        kinds = (_INODE_ITEM, _INODE_ITEM)
        for _, _, _, other in _search(self.fd, self.buffer, (inode, inode), kinds, 0, most=1):
            same = _TRANSACTION.unpack_from(item)[0] == _TRANSACTION.unpack_from(other)[0]
            moment = _CTIME.unpack_from(item, _CTIME_AT)
            return bool(same and moment == _CTIME.unpack_from(other, _CTIME_AT))
        return False


class _Above:
    """Finds the directories above an inode, each once."""

    __slots__ = ("buffer", "fd", "known")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.buffer = bytearray(_SIZE + 2 * _LARGEST)
        self.known: set[int] = set()

    def add(self, inode: int, found: set[int]) -> None:
        """Add every directory that leads to *inode*, by all of its names, to *found*."""
        todo = [inode]
        while todo:
            one = todo.pop()
            if one in self.known:
                continue
            self.known.add(one)
            for parent in self._parents(one):
                found.add(parent)
                if parent != _FIRST:
                    todo.append(parent)

    def _parents(self, inode: int) -> list[int]:
        parents = []
        found = _search(self.fd, self.buffer, (inode, inode), (_INODE_REF, _INODE_EXTREF), 0)
        for _, kind, offset, item in found:
            if kind == _INODE_REF:
                parents.append(offset)
            elif kind == _INODE_EXTREF:
                parents.append(int.from_bytes(item[:8], "little"))
        return parents


def _search(
    fd: int,
    arguments: bytearray,
    inodes: tuple[int, int],
    kinds: tuple[int, int],
    transaction: int,
    *,
    most: int = 2**32 - 1,
) -> Iterator[tuple[int, int, int, memoryview]]:
    """Inode number, kind, offset and content of the items of these *kinds* in leaves that were
    written in *transaction* or later, at *most* so many. *arguments* is what the kernel
    answers into; the content is in there until the next one is asked for.
    """
    import fcntl

    first = (inodes[0], kinds[0], 0)
    while True:
        _KEY.pack_into(arguments, 0, 0, first[0], inodes[1], first[2], _TOP, transaction, _TOP,
                       first[1], kinds[1], most, 0, 0, 0, 0, 0)  # fmt: skip
        size = len(arguments) - _SIZE
        arguments[_KEY.size : _SIZE] = size.to_bytes(8, sys.byteorder)
        try:
            fcntl.ioctl(fd, _TREE_SEARCH_V2, arguments)
        except OSError as error:
            if error.errno != errno.EOVERFLOW:
                raise
            raise OSError(
                errno.EOVERFLOW, "an item is larger than the buffer", "tree search"
            ) from error
        count = _KEY.unpack_from(arguments)[9]
        if not count:
            return
        view = memoryview(arguments)
        position = _SIZE
        last = first
        for _ in range(count):
            _, inode, offset, kind, size = _HEADER.unpack_from(arguments, position)
            position += _HEADER.size
            last = (inode, kind, offset)
            if kinds[0] <= kind <= kinds[1]:
                yield inode, kind, offset, view[position : position + size]
            position += size
        if count >= most or len(arguments) - position > _LARGEST:
            return  # there was room for another one, and there is none
        first = _after(*last)


def _after(inode: int, kind: int, offset: int) -> tuple[int, int, int]:
    """The smallest key that is larger: keys are ordered by inode, kind, offset."""
    if offset < _TOP:
        return inode, kind, offset + 1
    return (inode, kind + 1, 0) if kind < 255 else (inode + 1, 0, 0)
