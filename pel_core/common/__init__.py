"""What any program needs and nothing of ours: errors, atomic files, YAML, named generators, tensors on disk, signals, progress.

Start with `errors` (one exception type for what a user can mend) and `files`. What knows of data or runs does not belong here.
"""
