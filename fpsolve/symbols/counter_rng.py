"""Counter-based random numbers by threefry: normals as a pure function of (key, walker, step).

``threefry2x64`` and ``box_muller`` are written so that one text serves twice: on NumPy arrays here,
and line by line inside the compiled ensemble kernels, which paste it. So they use only operations
that mean the same on a NumPy array and on a number in compiled code, without branches.
"""

from __future__ import annotations

import numpy as np

#: The generator of normals, as results record it.
GENERATOR = "threefry2x64-13, counter (step, walker), Box-Muller"
Rng = int | np.random.SeedSequence | np.random.Generator | None
Seed = Rng | str


def rotated(a, b, left):
    """One round of threefry: add, rotate ``left``, exclusive or."""
    a = a + b
    return a, ((b << np.uint64(left)) | (b >> np.uint64(64 - left))) ^ a


def threefry2x64(k0, k1, c0, c1):
    """Two random 64-bit words from a 128-bit key and a 128-bit counter, in 13 rounds; numbers or arrays.

    Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC11 (2011): 13 rounds is the
    fewest that passes BigCrush. Checked against the authors' known answers.
    """
    k2 = k0 ^ k1 ^ np.uint64(0x1BD11BDAA9FC1A22)
    a = c0 + k0
    b = c1 + k1
    a, b = rotated(a, b, 16)
    a, b = rotated(a, b, 42)
    a, b = rotated(a, b, 12)
    a, b = rotated(a, b, 31)
    a = a + k1
    b = b + (k2 + np.uint64(1))
    a, b = rotated(a, b, 16)
    a, b = rotated(a, b, 32)
    a, b = rotated(a, b, 24)
    a, b = rotated(a, b, 21)
    a = a + k2
    b = b + (k0 + np.uint64(2))
    a, b = rotated(a, b, 16)
    a, b = rotated(a, b, 42)
    a, b = rotated(a, b, 12)
    a, b = rotated(a, b, 31)
    a = a + k0
    b = b + (k1 + np.uint64(3))
    a, b = rotated(a, b, 16)
    return a, b


def box_muller(w0, w1):
    """Two independent standard normals from two random words.

    With u in (0, 1] from the 52 high bits of ``w0`` and an angle φ, the normals are
    √(−2 ln u) (cos φ, sin φ). The angle is π/4 + r with |r| ≤ π/4 from the 52 high bits of ``w1``,
    reflected by its two lowest bits, so that √2 cos φ = cos r − sin r needs no range reduction and
    the factor √2 cancels. Logarithm, sine and cosine are polynomials, right to 10⁻¹³; the largest
    normal is 8.5. Box, Muller, Ann. Math. Stat. 29, 610 (1958); Chebyshev fits of atanh, sin and cos.
    """
    u = 2.0 - np.uint64((w0 >> np.uint64(12)) | np.uint64(0x3FF0000000000000)).view(np.float64)
    bits = np.uint64(np.float64(u).view(np.uint64))
    # ln u = e ln 2 + ln √2 + 2 atanh s, with u = 2^e m, 1 ≤ m < 2, s = (m − √2)/(m + √2)
    e = np.uint64((bits >> np.uint64(52)) | np.uint64(0x4330000000000000)).view(np.float64)
    m = np.uint64((bits & np.uint64(0x000FFFFFFFFFFFFF)) | np.uint64(0x3FF0000000000000)).view(np.float64)
    s = (m - 1.4142135623730951) / (m + 1.4142135623730951)
    q = s * s
    p = 0.19608095639753053 * q + 0.2217424991007749
    p = p * q + 0.28572166145875725
    p = p * q + 0.3999999489183238
    p = p * q + 0.6666666667957925
    p = p * q + 1.9999999999999472
    # 4503599627371519 = 2^52 + 1023 undoes the exponent's packing
    log_u = (e - 4503599627371519.0) * 0.6931471805599453 + (p * s + 0.34657359027997264)
    radius = np.sqrt(np.abs(log_u))  # abs: rounding can leave +1e-16 at u = 1
    t = np.uint64((w1 >> np.uint64(12)) | np.uint64(0x3FF0000000000000)).view(np.float64) - 1.5
    q = t * t
    sine = -3.556386260704784e-06 * q + 0.00016042926504495616
    sine = sine * q - 0.004681752591458208
    sine = sine * q + 0.07969262612615574
    sine = sine * q - 0.6459640975043091
    sine = (sine * q + 1.5707963267948899) * t
    cosine = -2.4850963357813638e-05 * q + 0.0009191617369539573
    cosine = cosine * q - 0.020863468002244645
    cosine = cosine * q + 0.2536695071537043
    cosine = cosine * q - 1.2337005501201592
    cosine = cosine * q + 0.9999999999999444
    flip0 = (w1 & np.uint64(1)) << np.uint64(63)
    flip1 = (w1 & np.uint64(2)) << np.uint64(62)
    z0 = np.float64(radius * (cosine - sine)).view(np.uint64)
    z1 = np.float64(radius * (cosine + sine)).view(np.uint64)
    return np.uint64(z0 ^ flip0).view(np.float64), np.uint64(z1 ^ flip1).view(np.float64)


def standard_normals(key: tuple[int, int], walkers: np.ndarray, step: int, count: int) -> np.ndarray:
    """Normals (count, k) that drive the walkers of the given numbers (k,) at one step, 0 for the first.

    They are those of the compiled kernels, up to the rounding of fused multiply-adds.
    """
    walkers = np.asarray(walkers).astype(np.uint64)
    pairs = (count + 1) // 2
    normals = np.empty((2 * pairs, walkers.size))
    with np.errstate(over="ignore"):  # words wrap around by design
        for pair in range(pairs):
            counter = np.full(walkers.shape, step * pairs + pair, dtype=np.uint64)
            words = threefry2x64(np.uint64(key[0]), np.uint64(key[1]), counter, walkers)
            normals[2 * pair], normals[2 * pair + 1] = box_muller(*words)
    return normals[:count]


def random_key(rng: Seed) -> tuple[int, int]:
    """The 128-bit key of an ensemble, two integers below 2⁶⁴, from a seed or from the key in a result.

    A string is a recorded key, ``"0x"`` and up to 32 hexadecimal digits; any other string is a ValueError.
    None is fresh entropy.
    """
    if isinstance(rng, str):
        try:
            number = int(rng.removeprefix("0x"), 16)
        except ValueError:
            number = -1
        if not 0 <= number < 2**128:
            raise ValueError(f"rng={rng!r} is no recorded key; give '0x' and up to 32 hex digits")
        return number >> 64, number & (2**64 - 1)
    k0, k1 = np.random.default_rng(rng).integers(0, 2**64, size=2, dtype=np.uint64)
    return int(k0), int(k1)


def key_text(key: tuple[int, int]) -> str:
    """A key as results record it, in the form that :func:`random_key` reads."""
    return f"0x{key[0]:016x}{key[1]:016x}"
