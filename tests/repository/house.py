"""Which module imports what, read from the source without running it."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
OURS = {
    "registry_server": ROOT,
    "inference_server": ROOT,
    "server_kit": ROOT,
    "videoai": ROOT / "clients",
    "demo": ROOT / "clients",
    "sidecar": ROOT / "clients",
}


def uses(source: str, module: str, *, package: bool = False) -> set[str]:
    """Return the dotted names that `source` imports anywhere in it, and the names of `os` that it uses.

    `from a import b` gives both "a" and "a.b", for b may be a module; a relative import is resolved against `module`,
    which is a package where `package` says so.
    """
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = _start(node, module, package=package)
            found |= {start, *(f"{start}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os":
            found.add(f"os.{node.attr}")
    return found


def _start(node: ast.ImportFrom, module: str, *, package: bool) -> str:
    if not node.level:
        return node.module or ""
    parts = module.split(".")
    parts = parts[: len(parts) - node.level + package]
    return ".".join([*parts, node.module] if node.module else parts)


def modules() -> Iterator[tuple[str, Path]]:
    """Yield every module of ours that is written by hand: its dotted name and its file."""
    for package, folder in OURS.items():
        for path in sorted((folder / package).rglob("*.py")):
            if "_pb2" not in path.name:
                yield name(path.relative_to(folder)), path


def name(path: Path) -> str:
    """Turn a path relative to its import root into a dotted name."""
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def read() -> dict[str, set[str]]:
    """Return what every hand-written module of ours uses."""
    return {module: uses(path.read_text(), module, package=path.name == "__init__.py") for module, path in modules()}


def within(module: str, *places: str) -> bool:
    """Tell whether `module` is one of `places` or lies inside one."""
    return any(module == place or module.startswith(f"{place}.") for place in places)


def reachable(module: str, house: Mapping[str, set[str]]) -> set[str]:
    """Return everything that importing `module` uses, by way of all our modules that it imports and their packages."""
    waiting, seen, used = [module], set[str](), set[str]()
    while waiting:
        current = waiting.pop()
        if current in seen or current not in house:
            continue
        seen.add(current)
        used |= house[current]
        waiting += [*house[current], *(".".join(current.split(".")[:n]) for n in range(1, current.count(".") + 1))]
    return used | seen
