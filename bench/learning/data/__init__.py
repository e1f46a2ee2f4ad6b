"""Data sets by name, and the preprocessing of images."""

from bench.learning.data import mnist, synthetic  # importing them registers their data sets

__all__ = ["mnist", "synthetic"]
