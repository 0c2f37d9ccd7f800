"""Lazy modules: their code runs at the first access to one of their attributes.

A verb imports all that it may need, and a run without errors needs little of that. This is not
safe if two threads load the same module at the same time; the program does not do that.
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
        """Run the code, which turns this into an ordinary module, and return the attribute."""
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
        """Run the code first; run later, it would reset the attribute to its initial value."""
        if name != "__class__" and type(self) is Postponed:
            hasattr(self, "")
        ModuleType.__setattr__(self, name, value)  # no longer a Postponed


class _LazyLoader:
    """Loads a module without its code, which *loader* runs later."""

    def __init__(self, loader: SourceFileLoader) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> None:
        """Let the interpreter make the module as usual, and read its attributes."""

    def exec_module(self, module: ModuleType) -> None:
        spec = module.__spec__
        assert spec is not None
        spec.loader = module.__loader__ = self.loader
        module.__class__ = Postponed


class _Finder:
    """Finds the modules of the program. Its packages are imported as usual."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not name.startswith(OWN):
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.submodule_search_locations is None:
            if type(spec.loader) is SourceFileLoader:
                # Only the methods of the loader are used, not its class.
                spec.loader = _LazyLoader(spec.loader)  # type: ignore[assignment]
        return spec


def install() -> None:
    """Postpone the modules of the program that are imported after this."""
    if _Finder not in sys.meta_path:
        sys.meta_path.insert(0, _Finder)
