"""The figures of docs/benchmarks.md, measured anew by `make bench`. They are printed, never asserted."""
