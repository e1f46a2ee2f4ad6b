"""Limits of the measurements, in a file without PyTorch, so that how long they take can be worked out without it."""

ROUNDS, FEWEST_ROUNDS = 40, 6
LONGEST_SECONDS = 20
"""The time for each model after which no further round of the timing begins, if there were FEWEST_ROUNDS."""
BLOCK_SECONDS = 0.03
"""The shortest duration of a block."""
WARM_UP_SECONDS = 0.1
"""The duration of the warm-up of each call before the first round. In each round, a call shorter than a block is warmed
up once more; a longer one is not, as the caches that the reference step filled cost it only a thousandth."""
LARGEST_BATCH = 250
MOST_PIXELS = {"cpu": LARGEST_BATCH * 32 * 32, "cuda": LARGEST_BATCH * 96 * 96}
"""The most pixels of a batch of evaluation. On a CPU, layers with outputs above 32 MB are slow: glibc gives such memory
back to the system after each, and gets it anew."""
