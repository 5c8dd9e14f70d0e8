"""The Python door: what `import pel_core as pel` gives to scripts and notebooks (docs/python.md).

One file a function: `results` (a frame of all finished runs), `loaded` (a trained run that classifies images), `training` (one
run with a live bar), `study` (cells and figures of a study). `pel_core/__init__.py` names them and imports each at its first
use. What is public here is checked by mypy, strictly.
"""
