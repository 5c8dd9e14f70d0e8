"""Long-tailed data sets as a run reads them: the registry DATASETS, sampling, transforms, loading, batches.

Start with `datasets`. How data come from what a person has is in `ingest`; methods and specs are unknown here.
"""
