"""Entries that a test adds as a plugin's module would."""

from collections.abc import Callable

from pel_core.common.registry import PLUGIN_MODULES, Plugin


def import_as(plugin: Plugin, register: Callable[[], object]) -> None:
    """Call ``register`` in the body of a module that belongs to ``plugin``."""
    module = "a_plugin_of_a_test"
    PLUGIN_MODULES[module] = plugin
    try:
        exec(compile("register()", module, "exec"), {"__name__": module, "register": register})
    finally:
        del PLUGIN_MODULES[module]
