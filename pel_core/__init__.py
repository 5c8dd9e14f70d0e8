"""PEL-Lab: ablation studies of parameter-efficient long-tailed recognition."""

__version__ = "0.1.0"
