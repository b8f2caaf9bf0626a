"""The handwritten digits that scikit-learn ships (UCI, 8x8 pixels of 0 to 16), split once and for all."""

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

PIXELS = 64
HELD_OUT = 600
SEED = 7


@dataclass(frozen=True)
class Digits:
    """Images as float32 of shape (rows, 64); labels as int64 of shape (rows,)."""

    images: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]


@cache
def split() -> tuple[Digits, Digits]:
    """The training images, and the 600 held-out ones that no version was trained on."""
    images, labels = load_digits(return_X_y=True)
    train_x, held_x, train_y, held_y = train_test_split(
        images.astype(np.float32), labels.astype(np.int64), test_size=HELD_OUT, stratify=labels, random_state=SEED
    )
    return Digits(train_x, train_y), Digits(held_x, held_y)
