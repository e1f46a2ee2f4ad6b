"""Data sets by name, and the preprocessing of images. A user's file calls :func:`register`."""

from bench.learning.data import mnist, synthetic  # importing them registers their data sets
from bench.learning.data.datasets import register

__all__ = ["mnist", "register", "synthetic"]
