"""Modules whose code runs when an attribute of them is first asked for.

A verb imports whatever it may need, and a sound configuration needs little of it. This is not safe
where two threads may ask for the same module at once; the program has none.
"""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType
else:
    ModuleType = type(sys)

OWN = "ephemeroot."


class Postponed(ModuleType):
    """A module whose code has not run yet."""

    def __getattr__(self, name: str) -> object:
        """Run the code, which makes this an ordinary module, and return the attribute."""
        spec: ModuleSpec = self.__dict__["__spec__"]
        assert spec.loader is not None
        self.__class__ = ModuleType  # type: ignore[assignment]  # as importlib.util.LazyLoader does
        try:
            spec.loader.exec_module(self)
        except BaseException:
            self.__class__ = Postponed
            raise
        return getattr(self, name)

    def __setattr__(self, name: str, value: object) -> None:
        """Run the code first, which would set the attribute to what it is in the beginning."""
        if name != "__class__" and type(self) is Postponed:
            hasattr(self, "")
        ModuleType.__setattr__(self, name, value)  # not a Postponed any more


class _Later:
    """Loads a module of which *loader* runs the code later."""

    def __init__(self, loader: SourceFileLoader) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> None:
        """The interpreter makes the module as usual, and asks it for attributes."""

    def exec_module(self, module: ModuleType) -> None:
        spec = module.__spec__
        assert spec is not None
        spec.loader = module.__loader__ = self.loader
        module.__class__ = Postponed


class _Finder:
    """Finds the modules of the program, but not its packages, which lead to them."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not name.startswith(OWN):
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.submodule_search_locations is None:
            if type(spec.loader) is SourceFileLoader:
                spec.loader = _Later(spec.loader)  # type: ignore[assignment]  # by its methods
        return spec


def install() -> None:
    """Postpone the modules of the program that are imported after this."""
    if _Finder not in sys.meta_path:
        sys.meta_path.insert(0, _Finder)
