"""Shoppers who walk about in a catalogue: a file of sequences of any size, for benchmarks of training."""

from pathlib import Path

import numpy as np

ITEMS, SHOPPERS = 12_000, 12_000
LONGEST = 30


def write_walks(path: Path, *, shoppers: int = SHOPPERS, items: int = ITEMS, seed: int = 5) -> int:
    """Write one line per shopper, about 9 items each, most of them near the one before; return how many choices there are to learn from."""
    random = np.random.default_rng(seed)
    lengths = np.clip(random.geometric(1 / 6, shoppers) + 4, 5, LONGEST)
    lines = []
    for number, length in enumerate(lengths):
        steps = np.where(random.random(length) < 0.7, random.integers(1, 20, length), random.integers(items, size=length))
        walk = (int(random.integers(items)) + np.cumsum(steps)) % items
        lines.append(" ".join([f"u{number}", *(f"i{place}" for place in walk)]))
    path.write_text("\n".join(lines))
    return int(lengths.sum() - 2 * shoppers)
