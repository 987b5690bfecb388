"""Guards that run on request: see benchmarks/README.md."""
