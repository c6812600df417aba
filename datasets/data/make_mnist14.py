"""Make mnist14.npz from the two original idx files of MNIST's training set.

python datasets/data/make_mnist14.py FOLDER, where FOLDER holds train-images-idx3-ubyte and train-labels-idx1-ubyte,
gzipped or not. Every second pixel in both directions is kept, without smoothing, as in the Colored MNIST code.
"""

from __future__ import annotations

import gzip
import hashlib
import sys
from pathlib import Path

import numpy as np

MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
}
IMAGES_HEADER, LABELS_HEADER = 16, 8  # bytes before the data of an idx file of rank 3 and rank 1


def original(folder: Path, name: str) -> bytes:
    """The bytes of an idx file, known to be the original ones."""
    zipped = folder / f"{name}.gz"
    raw = gzip.decompress(zipped.read_bytes()) if zipped.exists() else (folder / name).read_bytes()
    found = hashlib.md5(raw).hexdigest()
    if found != MD5[name]:
        sys.exit(f"{folder / name} is not the original file: its MD5 is {found}, expected {MD5[name]}")
    return raw


def main(folder: Path, out: Path) -> None:
    images, labels = (np.frombuffer(original(folder, name), np.uint8) for name in MD5)
    pixels = images[IMAGES_HEADER:].reshape(-1, 28, 28)[:, ::2, ::2]
    np.savez_compressed(out, images=pixels, labels=labels[LABELS_HEADER:])
    print(f"{out}: {len(pixels)} images, SHA-256 {hashlib.sha256(out.read_bytes()).hexdigest()}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(__file__).with_name("mnist14.npz"))
