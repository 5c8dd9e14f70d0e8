"""Statistics of comparisons: both intervals, Holm, marks, verdicts, power; from stored predictions alone. Start in `effects`."""
