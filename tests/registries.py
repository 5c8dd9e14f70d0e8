"""Entries that a test adds to a registry, or puts in the place of others, for its own length."""


def set_entry(monkeypatch, registry, name, value, **declaration):
    """``registry[name] = value`` until the test ends; ``declaration``: as for `Registry.register`."""
    others = {entry.name: entry for entry in registry.entries() if entry.name != name}
    monkeypatch.setattr(registry, "_entries", others)
    registry.register(name, value, **declaration)
