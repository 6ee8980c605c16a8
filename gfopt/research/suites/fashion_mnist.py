"""Fashion-MNIST: where its four files may lie, and how they are read.

No package of PyPI holds the images. Debian's ``dataset-fashion-mnist`` does, Keras and
torchvision keep the same files where they put what they download.

Source: H. Xiao, K. Rasul, R. Vollgraf (2017), "Fashion-MNIST: a novel image dataset for
benchmarking machine learning algorithms", arXiv 1708.07747.
"""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import numpy as np

INSTALL = (
    "apt-get install dataset-fashion-mnist, or set FASHION_MNIST to a folder with "
    "train-images-idx3-ubyte.gz and train-labels-idx1-ubyte.gz"
)
_IMAGES, _LABELS = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"
_PLACES = ("/usr/share/datasets/fashion-mnist", "~/.keras/datasets/fashion-mnist")
_EACH = 500  # of a class


def folder() -> Path | None:
    """Returns the folder that holds the training data, or None."""
    given = os.environ.get("FASHION_MNIST")
    for place in (*([given] if given else ()), *_PLACES):
        path = Path(place).expanduser()
        if (path / _IMAGES).is_file() and (path / _LABELS).is_file():
            return path
    return None


def training_images() -> tuple[np.ndarray, np.ndarray]:
    """Reads the first 500 training images of each of the ten classes.

    Returns:
        ``(float32[5000, 784] from 0 to 1, int32[5000])``.

    Raises:
        ImportError: where there are none; it says what to install.
    """
    place = folder()
    if place is None:
        raise ImportError(f"Fashion-MNIST is not here: {INSTALL}")
    labels = _read(place / _LABELS)
    order = np.argsort(labels, kind="stable").reshape(10, -1)
    chosen = np.sort(order[:, :_EACH].ravel())
    images = _read(place / _IMAGES)[chosen]
    pixels = images.reshape(len(chosen), -1).astype(np.float32) / 255
    return pixels, labels[chosen].astype(np.int32)


def _read(path: Path) -> np.ndarray:
    """Reads a file of bytes: two zeros, 8, how many axes, their lengths, the bytes."""
    data = gzip.decompress(path.read_bytes())
    if data[:3] != b"\0\0\x08":
        raise ValueError(f"{path} is no file of bytes in the format of MNIST")
    shape = np.frombuffer(data, ">u4", data[3], offset=4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(shape)
