"""Stationary density of the reference valley against one sparse LU of its own matrix, and the referee's time."""

import os
import resource
import statistics
import time
import warnings

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import scipy.sparse.linalg as sparse_linalg

from fpsolve import compare, stationary_density
from fpsolve.density.grid import Grid
from fpsolve.density.operator import fokker_planck_matrix
from theory import Langevin, degenerate_valley, random_shift

REPEATS = 5
#: Cells of a box, a quarter of which is solved.
LARGE = (1232, 812)
#: std(|x|) of the reference valley at Δ_S = 1e-3, by two independent spectral methods.
EXACT_WIDTH = 0.017161331


def _median_time(function) -> float:
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    """Print times, ratios and errors; medians of repeats in one run."""
    sgd = Langevin(degenerate_valley(), random_shift(delta_s=1e-3))
    density = stationary_density(sgd)
    error = compare.averages(density, ("x", "y"))["std(|x|)"] / EXACT_WIDTH - 1
    folded = [int(n) // 2 for n in density.shape]
    cells = int(density.attrs["cells"])
    high = [float(density[v][-1] + (density[v][1] - density[v][0]) / 2) for v in density.dims]
    shape = (cells // folded[1], folded[1])
    low = high[0] * (1 - shape[0] / folded[0])
    grid = Grid(("x", "y"), (low, 0.0), tuple(high), shape, ("y",))
    matrix = fokker_planck_matrix(sgd, grid, ("central", "exponential"))[1:, 1:].tocsc()
    factor = _median_time(lambda: sparse_linalg.splu(matrix))
    # A new landscape each time, as in a sweep: reductions and compiled functions are not remembered.
    fresh = iter(range(1, 10 * REPEATS))

    def another() -> Langevin:
        return Langevin(
            degenerate_valley(epsilon=1e-3 * (1 + 1e-6 * next(fresh))), random_shift(delta_s=1e-3)
        )

    whole = _median_time(lambda: stationary_density(another()))
    again = _median_time(lambda: stationary_density(sgd))
    print(f"finite volumes: {cells} cells, error of std(|x|) {error:+.1e} (target 1e-3 on at most 60000)")
    print(
        f"  whole solve of a new landscape {whole:.2f} s, of the same one again {again:.2f} s, one sparse LU "
        f"(SuperLU defaults) {factor:.2f} s: ratios {whole / factor:.1f} and {again / factor:.1f} (targets 3 and 2)"
    )
    start = time.process_time()
    large = stationary_density(sgd, shape=LARGE)
    spent, peak = time.process_time() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(
        f"  {large.attrs['cells']} cells: {spent:.1f} s of one core, {peak:.2f} GB at most (targets 5 s, 1.2 GB)"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        referee = stationary_density(sgd, method="spectral")
    error = compare.averages(referee, ("x", "y"))["std(|x|)"] / EXACT_WIDTH - 1
    whole = _median_time(lambda: stationary_density(another(), method="spectral"))
    print(f"spectral: {whole:.2f} s, error of std(|x|) {error:+.1e} (target 1e-8 in 2 s)")


if __name__ == "__main__":
    main()
