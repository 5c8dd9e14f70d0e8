"""From what a person has (folders, tables, lists, archives) to what `data` reads: locate, check, fetch, prepare.

Start with `prepare`. Studies are unknown here.
"""
