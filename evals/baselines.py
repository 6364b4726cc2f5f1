"""Baselines: what a text costs without a trained model, in bits per byte.

    order 0:  -sum_x p(x) log2 p(x)            order 1:  -sum_xy p(x, y) log2 p(y | x)

with x, y bytes and p their shares in the very text that is scored. A model that does not beat
these has learned less than counts of single bytes, of pairs of bytes, or than repetition.
"""

import lzma
import zlib
from dataclasses import dataclass

import numpy as np

try:
    import pyppmd
except ImportError:
    pyppmd = None

PPM_ORDER = 16  # of 4, 6, 8, 12 and 16 the best on 2 MB of German and on 2 MB of English
PPM_MEMORY_BYTES = 256 * 2**20  # the model is not begun anew within a few dozen megabytes of text


@dataclass(frozen=True, kw_only=True)
class Baselines:
    """Bits per byte of one text.

    Attributes:
        order0: Empirical entropy of its bytes. What the counts themselves would cost is not
            charged, which favours the baseline, the more so the shorter the text.
        order1: The same of a byte given the one before it.
        gzip: Its size under zlib level 9.
        xz: Its size under lzma preset 9e, the container's few dozen bytes included.
        ppm: Its size under PPMd variant H, contexts of up to `PPM_ORDER` bytes: what counting
            reaches that adapts to the very text. None where pyppmd is not installed.
    """

    n_bytes: int
    order0: float
    order1: float
    gzip: float
    xz: float
    ppm: float | None


def measure_baselines(data: bytes) -> Baselines:
    """Score the held-out bytes of one language.

    Raises:
        ValueError: There are no bytes.
    """
    if not data:
        raise ValueError("no bytes to score; hold out some text of this source")
    n_bytes = len(data)
    xz = lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)
    return Baselines(
        n_bytes=n_bytes,
        order0=order0_bits(data) / n_bytes,
        order1=order1_bits(data) / n_bytes,
        gzip=8 * len(zlib.compress(data, 9)) / n_bytes,
        xz=8 * len(xz) / n_bytes,
        ppm=ppm_bits(data),
    )


def ppm_bits(data: bytes) -> float | None:
    """Give bits per byte under prediction by partial matching."""
    if pyppmd is None:
        return None
    packed = pyppmd.compress(data, max_order=PPM_ORDER, mem_size=PPM_MEMORY_BYTES)
    return 8 * len(packed) / len(data)


def order0_bits(data: bytes) -> float:
    """Give the bits of all bytes under their own shares."""
    return entropy_bits(np.bincount(np.frombuffer(data, np.uint8), minlength=256))


def order1_bits(data: bytes) -> float:
    """Give the bits of all bytes but the first given the one before, under their own shares.

    The first byte has none before it and costs 8 bits.
    """
    symbols = np.frombuffer(data, np.uint8).astype(np.int64)
    pairs = np.bincount(256 * symbols[:-1] + symbols[1:], minlength=256 * 256).reshape(256, 256)
    return 8.0 + entropy_bits(pairs) - entropy_bits(pairs.sum(axis=1))


def entropy_bits(counts: np.ndarray) -> float:
    """Give n times the entropy of n things in these counts."""
    counts = counts[counts > 0].astype(np.float64)
    return float((counts * np.log2(counts.sum() / counts)).sum())
