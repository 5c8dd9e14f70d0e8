"""From what a person has (folders, tables, lists, archives) to what `data` reads: locate, check, fetch, prepare.

Start with `sources`: one class a kind of data, which callers ask. `entries` is what a configuration may declare, `facts`
what is known of the published data sets, `identity` what a prepared folder depends on, `prepare` how one is made. Studies
are unknown here.
"""
