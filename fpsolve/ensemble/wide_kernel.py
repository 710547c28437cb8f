"""The compiled step of an ensemble in a wide valley: loops over arrays of coefficients, in lanes of walkers.

H is never built. For noise ξ = (μ, ν) in (x, y) and h_i = ½ y_i², with c the curvature of the floor,

    (∇L)_j = c x_j + Σ_i ∂_jλ_i h_i                (Hξ)_j = (c + Σ_i ∂_j²λ_i h_i) μ_j + Σ_i ∂_jλ_i y_i ν_i
    (∇L)_i = λ_i y_i                               (Hξ)_i = λ_i ν_i + y_i Σ_j ∂_jλ_i μ_j

so that one pass over j needs four sums over i, of a_ij and b_ij with h_i and with w_i = y_i ν_i − dt h_i
(the noise's strength left out), and adds to two sums for every i. Sums over i are unrolled, the loop over
j is not. Normals are those of :mod:`fpsolve.ensemble.kernel` for the variables (x, y), drawn pair by pair
where they are used.
"""

from __future__ import annotations

from collections.abc import Callable

from fpsolve.ensemble.lanes import block, header, normals, rows
from fpsolve.symbols.cache import load_module

#: Recorded per walker after the N_S curvatures, and what it is.
RECORDED_BESIDE = {
    "loss": "loss",
    "squared_slope": "squared gradient of the logarithm of the weighted flatness",
    "floor_product": "gradient of the logarithm of the weighted flatness times x",
    "noise_product": "the same gradient times the averaged force of unit noise, to be subtracted",
}


def valley_kernel(n_sharp: int) -> Callable[..., None]:
    """The compiled step X − dt ∇L + √dt (s H ξ + u ξ), for N_S sharp and any number of flat variables.

    s is ``shift`` and u is ``uniform`` among the arguments of ``advance`` in the template. One file per N_S,
    kept compiled like those of :func:`fpsolve.ensemble.kernel.ensemble_kernel`.
    """
    # A pair of normals; x_j, its noise, its next value; bounds, squared radius, sums over j; rows for every i
    one = {"WORD": 2, "PAIR": 2, "X": 2, "NEW": 2, "BOUND": 1, "RADIUS": 1}
    layout = rows(one | dict.fromkeys(("Y", "NU", "W", "H", "L", "S"), n_sharp))
    loads = [
        f"{c}{v}{i} = {word}[{v}, {i}]"
        for c, word in (("a", "quadratic"), ("b", "quartic"))
        for v in ("j", "k")
        for i in range(n_sharp)
    ]
    source = header({"N_S": n_sharp, **layout}) + _TEMPLATE.format(
        normals=normals("WORD", "PAIR", counter="counter", walker="walker0 + np.uint64({l})", indent=4),
        load=block(loads, 4),
        body=block(_flat_pair(range(n_sharp)), 8),
    )
    return load_module(source, prefix="valley").advance


def _flat_pair(sharp: range) -> list[str]:
    """Lines that move x_j and x_k, and add them to the sums over flat variables.

    Two flat variables at a time: each sum over them is loaded and stored once for both.
    """
    body = [f"{name}{i} = lane[({name.upper()} + {i}) * LANES + l]" for i in sharp for name in ("w", "h")]
    for k, v in ((0, "j"), (1, "k")):
        body += [
            f"x{v} = lane[(X + {k}) * LANES + l]",
            f"m{v} = lane[(PAIR + {k}) * LANES + l]",
            f"q{v} = x{v} * x{v}",
        ]
        for c, factor in ("aw", "bw", "ah", "bh"):
            body.append(f"{c}{factor} = " + " + ".join(f"{c}{v}{i} * {factor}{i}" for i in sharp))
        body += [
            f"slope = x{v} * (2.0 * aw + 4.0 * q{v} * bw) - time_step * lift * x{v}",
            f"stiffness = lift + 2.0 * ah + 12.0 * q{v} * bh",
            f"moved{v} = x{v} + slope + (shift * stiffness + uniform) * m{v}",
            f"lane[(NEW + {k}) * LANES + l] = moved{v}",
            f"qq{v} = q{v} * q{v}",
            f"s{v} = x{v} * m{v}",
            f"qs{v} = 2.0 * q{v} * s{v}",
        ]
    body.append("lane[RADIUS * LANES + l] += movedj * movedj + movedk * movedk")
    for i in sharp:
        body += [
            # One term after the other, so that every product is fused with its sum
            f"total = lane[(L + {i}) * LANES + l]",
            *(f"total += {term}" for v in "jk" for term in (f"a{v}{i} * q{v}", f"b{v}{i} * qq{v}")),
            f"lane[(L + {i}) * LANES + l] = total",
            f"total = lane[(S + {i}) * LANES + l]",
            *(f"total += {term}" for v in "jk" for term in (f"a{v}{i} * s{v}", f"b{v}{i} * qs{v}")),
            f"lane[(S + {i}) * LANES + l] = total",
        ]
    return body


_TEMPLATE = '''

@njit(fastmath=FAST, error_model="numpy")
def draw(lane, words, counter, key0, key1, walker0, scale):
    """One pair of normals for every lane."""
    {normals}


@njit(fastmath=FAST, error_model="numpy", inline="always")
def flat_step(lane, old_j, old_k, new_j, new_k, j, k, quadratic, quartic, lift, shift, uniform, time_step):
    """x_j and x_k move, and add to the sums over flat variables.

    Rows at constant places: the compiler then needs no checks whether they overlap.
    """
    for l in range(LANES):
        lane[X * LANES + l] = old_j[l]
    for l in range(LANES):
        lane[(X + 1) * LANES + l] = old_k[l]
    {load}
    for l in range(LANES):
        {body}
    for l in range(LANES):
        new_j[l] = lane[NEW * LANES + l]
    for l in range(LANES):
        new_k[l] = lane[(NEW + 1) * LANES + l]


@njit(fastmath=FAST, error_model="numpy")
def record(place, here, n_flat, constant, quadratic, quartic, lift, weights, time_step):
    """The curvatures λ_i, the loss, |∇ ln F̂|², and ∇ ln F̂ times x and times ½ Σ_i λ_i ∇λ_i/(1 − dt λ_i/2)."""
    inverse = np.empty((N_S, LANES), np.float64)
    bowed = np.empty((N_S, LANES), np.float64)
    slope = np.empty(LANES, np.float64)
    force = np.empty(LANES, np.float64)
    for i in range(N_S):
        here[i] = constant[i]
    here[N_S:] = 0.0
    loss, squared, floor, noise = here[N_S], here[N_S + 1], here[N_S + 2], here[N_S + 3]
    for j in range(n_flat):
        x = place[j]
        for i in range(N_S):
            row = here[i]
            a = quadratic[j, i]
            b = quartic[j, i]
            for l in range(LANES):
                q = x[l] * x[l]
                row[l] += q * (a + b * q)
    for i in range(N_S):
        row = here[i]
        y = place[n_flat + i]
        for l in range(LANES):
            inverse[i, l] = weights[i] / row[l]
            bowed[i, l] = row[l] / (1.0 - 0.5 * time_step * row[l])
            loss[l] += 0.5 * row[l] * y[l] * y[l]
    for j in range(n_flat):
        x = place[j]
        slope[:] = 0.0
        force[:] = 0.0
        for i in range(N_S):
            first = inverse[i]
            second = bowed[i]
            a = quadratic[j, i]
            b = 2.0 * quartic[j, i]
            for l in range(LANES):
                half = x[l] * (a + b * x[l] * x[l])  # of the derivative of λ_i
                slope[l] -= first[l] * half
                force[l] += second[l] * half
        for l in range(LANES):
            loss[l] += 0.5 * lift * x[l] * x[l]
            squared[l] += slope[l] * slope[l]
            floor[l] += slope[l] * x[l]
            noise[l] += slope[l] * force[l]


@njit(nogil=True, fastmath=FAST, error_model="numpy")
def advance(
    positions, bounds, exit_step, constant, quadratic, quartic, lift, weights, shift, uniform,
    key0, key1, first_walker, first_step, last_step, time_step, record_every, records, first_group,
    last_group,
):
    n_flat = positions.shape[1] - N_S
    n = n_flat + N_S
    pairs = (n + 1) // 2
    shared = n_flat % 2  # then one pair of normals serves the last x and the first y
    scale = math.sqrt(time_step)
    noisy = shift != 0.0 or uniform != 0.0
    lane = np.zeros(TOTAL * LANES, np.float64)
    words = lane.view(np.uint64)
    last_m = np.zeros(LANES, np.float64)
    # One more row: an idle variable at zero makes the flat ones even in number
    old = np.zeros((n + 1, LANES), np.float64)
    new = np.zeros((n + 1, LANES), np.float64)
    for group in range(first_group, last_group):
        old[:n] = positions[group]
        lane[BOUND * LANES : (BOUND + 1) * LANES] = bounds[group]
        walker0 = np.uint64(first_walker) + np.uint64(group * LANES)
        if first_step == 0 and record_every > 0:
            record(
                old, records[0, group], n_flat, constant, quadratic, quartic, lift, weights, time_step
            )
        for step in range(first_step, last_step):
            counter = np.uint64(step) * np.uint64(pairs)
            if noisy:
                for pair in range(n_flat // 2, pairs):
                    draw(lane, words, counter + np.uint64(pair), key0, key1, walker0, scale)
                    for side in range(2):
                        i = 2 * pair + side - n_flat
                        if i < 0:
                            for l in range(LANES):
                                last_m[l] = lane[(PAIR + side) * LANES + l]
                        elif i < N_S:
                            for l in range(LANES):
                                lane[(NU + i) * LANES + l] = lane[(PAIR + side) * LANES + l]
            for i in range(N_S):
                for l in range(LANES):
                    lane[(Y + i) * LANES + l] = old[n_flat + i, l]
            for i in range(N_S):
                for l in range(LANES):
                    y = lane[(Y + i) * LANES + l]
                    h = 0.5 * y * y
                    lane[(H + i) * LANES + l] = h
                    lane[(W + i) * LANES + l] = shift * y * lane[(NU + i) * LANES + l] - time_step * h
                    lane[(L + i) * LANES + l] = constant[i]
                    lane[(S + i) * LANES + l] = 0.0
            for l in range(LANES):
                lane[RADIUS * LANES + l] = 0.0
            for pair in range(n_flat // 2):
                if noisy:
                    draw(lane, words, counter + np.uint64(pair), key0, key1, walker0, scale)
                j = 2 * pair
                k = j + 1
                flat_step(
                    lane, old[j], old[k], new[j], new[k], j, k, quadratic, quartic, lift, shift, uniform,
                    time_step,
                )
            if shared:
                for l in range(LANES):
                    lane[PAIR * LANES + l] = last_m[l]
                    lane[(PAIR + 1) * LANES + l] = 0.0
                j = n_flat - 1
                flat_step(
                    lane, old[j], old[n], new[j], new[n], j, n_flat, quadratic, quartic, lift, shift, uniform,
                    time_step,
                )
            for i in range(N_S):
                for l in range(LANES):
                    y = lane[(Y + i) * LANES + l]
                    nu = lane[(NU + i) * LANES + l]
                    curvature = lane[(L + i) * LANES + l]
                    moved = y - time_step * curvature * y + uniform * nu
                    moved += shift * (curvature * nu + 2.0 * y * lane[(S + i) * LANES + l])
                    lane[RADIUS * LANES + l] += moved * moved
                    lane[(H + i) * LANES + l] = moved
            for i in range(N_S):
                for l in range(LANES):
                    new[n_flat + i, l] = lane[(H + i) * LANES + l]
            inside_count = 0
            for l in range(LANES):
                inside = lane[RADIUS * LANES + l] < lane[BOUND * LANES + l]
                lane[BOUND * LANES + l] *= inside
                inside_count += inside
            if inside_count < LANES:
                for l in range(LANES):
                    if lane[BOUND * LANES + l] == 0.0:
                        for k in range(n):
                            new[k, l] = old[k, l]
                        if exit_step[group, l] < 0:
                            exit_step[group, l] = step + 1
            old, new = new, old
            if record_every > 0 and (step + 1) % record_every == 0:
                saved = (step + 1) // record_every
                record(
                    old, records[saved, group], n_flat, constant, quadratic, quartic, lift, weights,
                    time_step,
                )
        positions[group] = old[:n]
        bounds[group] = lane[BOUND * LANES : (BOUND + 1) * LANES]
'''
