"""Registries that map names to classes and functions, so that a configuration can name them."""

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
    """A table that maps names to classes and functions.

    Args:
        name: the word for one entry, for example ``"model"``; messages use it.

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
            obj: the class or function; if it is ``None``, the method returns a decorator.
            suffix: the end of the name; it distinguishes several objects with the same name.

        Returns:
            ``obj`` itself, so that the method works as a decorator.

        Raises:
            RegistrationError: the name is already in use.
        """
        if obj is None:
            return functools.partial(self.register, suffix=suffix)
        name = obj.__name__ if suffix is None else f"{obj.__name__}_{suffix}"
        if name in self._objects:
            raise RegistrationError(
                f"the {self} registry already contains {self._origin(self._objects[name])} under"
                f" the name {name!r}, so it cannot register {self._origin(obj)}. Rename one of"
                " them, or pass suffix=... to register()."
            )
        self._objects[name] = obj
        return obj

    __call__ = register

    def _origin(self, obj: Any) -> str:
        return f"{getattr(obj, '__module__', '?')}.{getattr(obj, '__qualname__', obj)}"

    def get(self, name: str, suffix: str | None = None) -> Any:
        """Return the object stored under a name.

        Args:
            name: the name.
            suffix: the suffix of ``<name>_<suffix>``, which is the second choice. If only this
                name is registered, the method returns its object and gives a warning.

        Raises:
            UnknownNameError: neither name is registered; the message suggests the nearest names.
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
        """Return a live view of the registered names."""
        return self._objects.keys()

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        """Iterate over pairs of name and object."""
        return iter(self._objects.items())


_REGISTERS = re.compile(r"\.register\b|_REGISTRY\b")


def update_all_registries(
    root: str | pathlib.Path, recurse: bool = True, import_prefix: str = ""
) -> None:
    """Import the modules of a package that register something.

    A module is imported if its text mentions a registry (``..._REGISTRY`` or ``.register``). The
    import registers its classes and functions.

    Args:
        root: the folder of the package; its parent must be importable.
        recurse: if True, subpackages are included.
        import_prefix: the dotted name of the package that contains ``root``, or an empty string.

    Raises:
        ConfigurationError: ``root`` is not the folder of a package.
    """
    root = pathlib.Path(root)
    if not (root / "__init__.py").is_file():
        raise ConfigurationError(
            f"cannot scan {root} for registered classes: it is not a package."
            " Pass a folder that contains an __init__.py."
        )
    prefix = ".".join(filter(None, [import_prefix, root.name]))
    for path in sorted(root.glob("**/*.py" if recurse else "*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        is_module = all(part.isidentifier() for part in parts)  # skips .ipynb_checkpoints
        if is_module and _REGISTERS.search(path.read_text(encoding="utf-8")):
            importlib.import_module(".".join([prefix, *(p for p in parts if p != "__init__")]))
