"""From results to what a person reads: statistics, tables, figures, claims, comparison, pages.

Start with `tables`; one file per kind of figure. Training is unknown here.
"""
