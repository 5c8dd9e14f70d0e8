"""The parts of the benchmark and the modules that measure them."""

PARTS = {"step": "step", "input": "inputs", "evaluation": "evaluation", "scaling": "scaling", "study": "study"}
PARTS |= {"statistics": "statistics", "sweep": "sweep", "gpu": "gpu"}
ON_GPU = ("gpu",)  # say nothing on a CPU: `all` leaves them out there
