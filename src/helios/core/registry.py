"""Names for classes and functions, so that they can be created from a configuration."""

import functools
import importlib
import pathlib
import re
import warnings
from collections.abc import Callable, Iterator, KeysView
from typing import Any, TypeVar, overload

from helios.errors import ConfigurationError, RegistrationError, UnknownNameError, nearest

T = TypeVar("T")


class Registry:
    """A table of names and the classes or functions that they stand for.

    Args:
        name: what the entries are, in the singular; used in messages.

    Example:
        .. code-block:: python

            MODELS = Registry("model")

            @MODELS  # or: @MODELS.register, @MODELS.register(suffix="v2"), MODELS.register(Net)
            class Net: ...

            MODELS.get("Net")
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._objects: dict[str, Any] = {}

    def __str__(self) -> str:
        return self._name

    @overload
    def register(self, obj: T, suffix: str | None = None) -> T: ...
    @overload
    def register(self, obj: None = None, suffix: str | None = None) -> Callable[[T], T]: ...
    def register(self, obj: Any = None, suffix: str | None = None) -> Any:
        """Store a class or function under its own name, or under ``<name>_<suffix>``.

        Args:
            obj: what to store. Without it, a decorator is returned.
            suffix: appended to the name, to tell several objects of one name apart.

        Returns:
            ``obj`` itself, so that the method serves as a decorator.

        Raises:
            RegistrationError: the name is taken.
        """
        if obj is None:
            return functools.partial(self.register, suffix=suffix)
        name = obj.__name__ if suffix is None else f"{obj.__name__}_{suffix}"
        if name in self._objects:
            raise RegistrationError(
                f"the {self} registry already holds {_origin(self._objects[name])} under the name"
                f" {name!r}, so {_origin(obj)} cannot be registered. Rename one of them, or pass"
                f" suffix=... to register()."
            )
        self._objects[name] = obj
        return obj

    __call__ = register

    def get(self, name: str, suffix: str | None = None) -> Any:
        """Return the object stored under a name.

        Args:
            name: the name.
            suffix: if the plain name is absent, ``<name>_<suffix>`` is tried, with a warning.

        Raises:
            UnknownNameError: neither is there; the message offers the nearest names.
        """
        if name in self._objects:
            return self._objects[name]
        suffixed = f"{name}_{suffix}"
        if suffix is not None and suffixed in self._objects:
            warnings.warn(f"no {self} is called {name!r}; using {suffixed!r} instead", stacklevel=2)
            return self._objects[suffixed]
        raise UnknownNameError(
            f"no {self} is called {name!r}.{nearest(name, self.keys())}"
            f" Registered: {', '.join(sorted(self.keys())) or 'none'}."
        )

    def __contains__(self, name: object) -> bool:
        return name in self._objects

    def keys(self) -> KeysView[str]:
        """Return the registered names, as a live view."""
        return self._objects.keys()

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        """Iterate over pairs of name and object."""
        return iter(self._objects.items())


def _origin(obj: Any) -> str:
    return f"{getattr(obj, '__module__', '?')}.{getattr(obj, '__qualname__', obj)}"


_REGISTERS = re.compile(r"\.register\b|_REGISTRY\b")


def update_all_registries(
    root: str | pathlib.Path, recurse: bool = True, import_prefix: str = ""
) -> None:
    """Import the modules of a package that register something.

    A module is imported when its text mentions a registry (``..._REGISTRY`` or ``.register``);
    importing it is what fills the registries.

    Args:
        root: the folder of the package; its parent must be importable.
        recurse: descend into subpackages.
        import_prefix: the dotted name of the package that holds ``root``, if there is one.

    Raises:
        ConfigurationError: ``root`` is not the folder of a package.
    """
    root = pathlib.Path(root)
    if not (root / "__init__.py").is_file():
        raise ConfigurationError(
            f"cannot scan {root} for registered classes: it is not a package."
            " Pass a folder that holds an __init__.py."
        )
    prefix = ".".join(filter(None, [import_prefix, root.name]))
    for path in sorted(root.glob("**/*.py" if recurse else "*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        is_module = all(part.isidentifier() for part in parts)  # not .ipynb_checkpoints
        if is_module and _REGISTERS.search(path.read_text(encoding="utf-8")):
            importlib.import_module(".".join([prefix, *(p for p in parts if p != "__init__")]))
