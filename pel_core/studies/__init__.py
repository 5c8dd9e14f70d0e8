"""A study (YAML) on a configuration (YAML) as runs: the schema, selections, cells, artefacts, plan, status. Torch-free.

Start with `study`. Drawing is in `reporting`.
"""
