"""From results to what a person reads: statistics, tables, figures, claims, comparison, pages.

Start with `tables`. A kind of artefact is one file, which declares it (`studies.kinds`) and is imported here; it imports
matplotlib where it draws, since planning reads the declarations. Training is unknown here.
"""

from pel_core.reporting import (  # noqa: F401
    claims,
    compare,
    factorial_anova,
    figure_bars,
    figure_budget,
    figure_class_difference,
    figure_confusion,
    figure_critical_difference,
    figure_curve,
    figure_interaction,
    figure_main_effects,
    figure_map,
    figure_per_class,
    figure_reliability,
    figure_seeds,
    figure_shift,
    figure_training,
    tables,
    variance,
)
