"""What a run is: RunSpec, its options and knobs, its name (the slug), and how its stored results are read.

Start with `run_spec`. How anything is done is unknown here.
"""
