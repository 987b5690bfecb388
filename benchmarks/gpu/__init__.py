"""The CUDA backend on a GPU: checks, ceilings, times, floors; ``python -m benchmarks.gpu``."""
