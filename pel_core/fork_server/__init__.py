"""Optional: small CPU jobs of one Snakemake call share a process that has imported torch. Nothing else depends on it.

Start with `server`; without it (PEL_FORK_SERVER=off) jobs just start slower.
"""
