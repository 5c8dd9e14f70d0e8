"""Benchmarks: ``python -m pel_core.bench [step|input|evaluation|study|scaling|all]``. Nothing else imports this package.

Each part writes one JSON file, with the machine, versions and commit that it was measured with; plots and the tables of
docs/benchmarks/README.md are made from these files. Ratios compare two ways in one process, turn by turn.
"""
