"""The command line `python -m pel_core`: options and their meaning, no logic.

Start with `main`.
"""
