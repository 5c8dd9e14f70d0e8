"""Plugins: Python files outside this package that add entries to its registries (docs/extending.md). Torch-free.

They are named on a command line (``--plugins FILE``, ``snakemake --config plugins=FILE``) or by the environment variable
PEL_PLUGINS, which jobs inherit; several are parted as in PATH. Installed packages name theirs by an entry point of the group
``pel_lab.plugins``. Studies and configurations cannot: they run no code. What a plugin is, is the SHA-256 of its content.
"""

import hashlib
import os
import sys
import traceback
from collections.abc import Callable, Iterable
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from pel_core.common.errors import PelError
from pel_core.common.logs import logger
from pel_core.common.paths import expand_user
from pel_core.common.registry import PLUGIN_MODULES, Entry, Plugin, all_registries

VARIABLE = "PEL_PLUGINS"
GROUP = "pel_lab.plugins"

# Plugins of this process by file (or by entry point), in the order in which they were loaded.
_loaded: dict[str, Plugin] = {}


def use_plugins(files: Iterable[str] = ()) -> None:
    """Load the files given, those that PEL_PLUGINS names and the installed ones, each once; jobs started from here have them.

    Args:
        files: paths; one text may hold several, parted as in PATH.

    Raises:
        PelError: a file does not exist or fails to import, or defines an entry that is there already.
    """
    given = [part for text in (*files, os.environ.get(VARIABLE, "")) for part in str(text).split(os.pathsep) if part]
    paths = list(dict.fromkeys(os.path.abspath(expand_user(part)) for part in given))
    if parted := [path for path in paths if os.pathsep in path]:
        raise PelError(f"the plugin {parted[0]}: a path that holds '{os.pathsep}' cannot be passed on to jobs; move the file")
    for path in paths:
        load_file(path)
    if paths:
        os.environ[VARIABLE] = os.pathsep.join(paths)
    for point in entry_points(group=GROUP):
        _load_installed(point)


def loaded() -> dict[str, Plugin]:
    """The plugins of this process, by their names."""
    return {plugin.name: plugin for plugin in _loaded.values()}


def used(entries: Iterable[Entry[Any]]) -> dict[str, str]:
    """Name and SHA-256 of the plugins that define some of the entries."""
    return {entry.plugin.name: entry.plugin.sha256 for entry in entries if entry.plugin}


def load_file(path: str | Path) -> Plugin:
    """Import a plugin file under a name of its own; again: nothing happens.

    Raises:
        PelError: as `use_plugins`.
    """
    path = os.path.abspath(path)
    if path in _loaded:
        return _loaded[path]
    try:
        content = Path(path).read_bytes()
    except (FileNotFoundError, IsADirectoryError):
        raise PelError(f"the plugin {path} does not exist, or is no file") from None
    plugin = Plugin(Path(path).name, hashlib.sha256(content).hexdigest())
    if other := loaded().get(plugin.name):
        raise PelError(f"the plugin {path}: another plugin is called {other.name} too; rename one of the two files")
    module = ModuleType(f"pel_plugin_{Path(path).stem}")
    module.__file__ = path
    sys.modules[module.__name__] = module  # dataclasses and pickle look a class's module up
    # Just the bytes that were hashed: an import could take older ones from __pycache__.
    _run(plugin, module.__name__, path, lambda: exec(compile(content, path, "exec"), module.__dict__))
    _loaded[path] = plugin
    logger.debug("plugin %s, content %s", path, plugin.sha256[:12])
    return plugin


def unload(plugin: Plugin) -> None:
    """Take a plugin and its entries out again."""
    for registry in all_registries():
        registry.remove(plugin)
    for name in [name for name, other in PLUGIN_MODULES.items() if other == plugin]:
        del PLUGIN_MODULES[name]
        sys.modules.pop(name, None)
    for key in [key for key, other in _loaded.items() if other == plugin]:
        del _loaded[key]


def _load_installed(point: EntryPoint) -> None:
    key = f"{point.name} = {point.value}"
    if key in _loaded:
        return
    spec = find_spec(point.module)
    if spec is None or not spec.origin:
        raise PelError(f"the installed plugin {key}: there is no module {point.module}")
    # Of a package, all its modules: what its __init__ imports makes its entries.
    folders = spec.submodule_search_locations
    files = sorted(file for folder in folders for file in Path(folder).rglob("*.py")) if folders else [Path(spec.origin)]
    digest = hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()
    plugin = Plugin(point.name, digest)
    _run(plugin, point.module, spec.origin, point.load)
    _loaded[key] = plugin


def _run(plugin: Plugin, module: str, path: str, load: Callable[[], object]) -> None:
    """Import a plugin's module; where that fails, nothing of it stays."""
    PLUGIN_MODULES[module] = plugin
    try:
        load()
    except Exception as error:
        unload(plugin)
        raise PelError(f"the plugin {path}{_line(error, path)}: {_told(error)}") from error


def _told(error: Exception) -> str:
    if isinstance(error, SyntaxError):
        return f"SyntaxError: {error.msg}"
    return str(error) if isinstance(error, PelError) else f"{type(error).__name__}: {error}"


def _line(error: Exception, path: str) -> str:
    """Where in the file it failed, as far as that is known."""
    if isinstance(error, SyntaxError) and error.filename == path:
        return f", line {error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    return f", line {lines[-1]}" if lines else ""
