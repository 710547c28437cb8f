"""The face of a package: its public names, found on first use, so that importing it loads nothing heavy."""

from __future__ import annotations

import ast
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

#: Libraries of an extra: what to install for them.
EXTRAS = {
    **dict.fromkeys(("torch", "curvlinops", "sklearn", "pooch", "safetensors"), "nets"),
    **dict.fromkeys(("dask", "distributed", "loky", "zarr", "numcodecs"), "distributed"),
}


def _with_extra(missing: ModuleNotFoundError, package: str) -> ModuleNotFoundError:
    """The same error with what to install, where the library belongs to an extra."""
    library = (missing.name or "").partition(".")[0]
    if library not in EXTRAS:
        return missing
    words = f"{package} needs {library}: pip install 'fpsolve[{EXTRAS[library]}]'"
    return ModuleNotFoundError(words, name=missing.name)


def lazy(package: str, file: str) -> tuple[Callable[[str], object], Callable[[], list[str]], list[str]]:
    """``__getattr__``, ``__dir__`` and ``__all__`` of a package, read from the stub beside it (PEP 562).

    The stub ``__init__.pyi``, which type checkers read too, holds ``from module import name as name``
    for each public name; ``from module import name as _name`` and ``other = _name`` publish it as ``other``.
    An unknown name is an AttributeError that lists the known ones.
    """
    tree = ast.parse(Path(file).with_suffix(".pyi").read_text(encoding="utf-8"))
    imported = {
        alias.asname or alias.name: (str(node.module), alias.name)
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    homes = {name: home for name, home in imported.items() if not name.startswith("_")}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Name):
            homes[ast.unparse(node.targets[0])] = imported[node.value.id]
    public = sorted(homes)

    def find(name: str) -> object:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}; it has {', '.join(public)}")
        module, attribute = homes[name]
        try:
            value = import_module(f"{module}.{attribute}")
        except ModuleNotFoundError as missing:
            if missing.name not in (f"{module}.{attribute}", module):
                raise _with_extra(missing, package) from missing
            try:
                value = getattr(import_module(module), attribute)
            except ModuleNotFoundError as needed:
                raise _with_extra(needed, package) from needed
        setattr(import_module(package), name, value)
        return value

    return find, lambda: public, public
