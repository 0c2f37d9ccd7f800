"""`Nesting` agrees with the definition, and its work is linear in the number of paths."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from counts import calls
from ephemeroot.hooks.operation import Operation
from ephemeroot.hooks.operations.copies import Copy
from ephemeroot.hooks.operations.directories import Directory
from ephemeroot.hooks.operations.files import File
from ephemeroot.hooks.operations.hide import Hide
from ephemeroot.hooks.operations.overlays import Overlay
from ephemeroot.hooks.store.nesting import BIND, OVERLAY, Nesting, path_of, store_of

KINDS = (Directory, Overlay, Copy, File)


def operations(paths: list[str], kinds: list[int], stores: list[bool]) -> list[Operation]:
    return [
        KINDS[kind](path=path, store="/one" if store else "/two", source=path[1:])
        for path, kind, store in zip(paths, kinds, stores, strict=True)
    ]


def by_definition(plan: list[Operation], directory: Operation) -> Iterator[Operation]:
    """See `Nesting.inside`."""
    nesting = Nesting(plan)
    for operation in plan:
        if hasattr(operation, "paths"):
            continue
        outer = nesting.outer(path_of(operation))
        while (
            outer is not None
            and outer is not directory
            and store_of(outer) == store_of(directory) == store_of(operation)
        ):
            outer = nesting.outer(path_of(outer))
        if outer is directory:
            yield operation


@given(st.data())
def test_agrees_with_the_definition(data: st.DataObject) -> None:
    names = st.lists(st.sampled_from("ab"), min_size=1, max_size=4)
    paths = data.draw(
        st.lists(names.map(lambda parts: "/" + "/".join(parts)), unique=True, max_size=12)
    )
    count = len(paths)
    kinds = data.draw(st.lists(st.integers(0, 3), min_size=count, max_size=count))
    stores = data.draw(st.lists(st.booleans(), min_size=count, max_size=count))
    plan = [*operations(paths, kinds, stores), Hide(paths=["/a"])]
    nesting = Nesting(plan)
    for directory in plan:
        if directory.KIND in (BIND, OVERLAY):
            assert nesting.inside(directory) == list(by_definition(plan, directory))
            above = f"{path_of(directory)}/"
            copies = [o for o in plan if o.KIND == "copy" and path_of(o).startswith(above)]
            assert nesting.has_copies(directory) == bool(copies)


@pytest.mark.parametrize("kind", [0, 1])
def test_the_work_grows_linearly(kind: int) -> None:
    def work(size: int) -> int:
        paths = [f"/srv/d{n}" for n in range(size)] + [f"/srv/d{n}/file" for n in range(size)]
        plan = operations(paths, [kind] * size + [2] * size, [True] * (2 * size))

        def run() -> None:
            nesting = Nesting(plan)
            for directory in plan[:size]:
                assert nesting.has_copies(directory)
                assert len(nesting.inside(directory)) == 1

        return calls(run)

    assert work(400) < 2.2 * work(200)
