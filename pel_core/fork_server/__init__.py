"""Optional: the small jobs of one Snakemake call on a CPU are forks of a process that has imported torch, half a study's time.

Start with `client`. Nothing else depends on it but the Snakefile, which offers it to its jobs, and ``__main__``, which asks it;
with PEL_FORK_SERVER=off every job is a process of its own, and comes out the same.
"""
