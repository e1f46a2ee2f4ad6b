"""Which of these image classifiers should I use, and how sure are we?"""

__version__ = "0.1.0"
