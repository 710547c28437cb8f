/* Reference for the ensemble benchmark: the 2D degenerate valley with random-shift noise.
 *
 * Same arithmetic as the compiled kernel: Euler-Maruyama, polynomial Box-Muller, divergence check,
 * running sums of x, y, |x|, |y|, xx, xy, yy, float64. Randomness: xoshiro256++ with one generator
 * per walker, laid out in lanes so that the compiler can use SIMD (the fastest form found here), or
 * with libm's log, sincos and one walker after the other (the form one writes first).
 *
 * cc -O3 -march=native -ffp-contract=fast -fno-math-errno -shared -fPIC valley.c -o valley.so -lm
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

#define LANES 32

static inline uint64_t rotl(uint64_t x, int k) { return (x << k) | (x >> (64 - k)); }

static uint64_t splitmix(uint64_t *s) {
    uint64_t z = (*s += 0x9e3779b97f4a7c15ULL);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    return z ^ (z >> 31);
}

static inline double as_double(uint64_t b) { double d; memcpy(&d, &b, 8); return d; }
static inline uint64_t as_bits(double d) { uint64_t b; memcpy(&b, &d, 8); return b; }

/* state: 4 words; returns the next word */
#define XOSHIRO(out, s0, s1, s2, s3)                                                              \
    do {                                                                                           \
        out = rotl(s0 + s3, 23) + s0;                                                              \
        uint64_t t_ = s1 << 17;                                                                    \
        s2 ^= s0; s3 ^= s1; s1 ^= s2; s0 ^= s3; s2 ^= t_; s3 = rotl(s3, 45);                       \
    } while (0)

/* drift -grad L and root sqrt(2 delta) H for L = lambda(x) y^2/2 + slope x^2/2, slope = eps l0,
 * with lambda' and lambda'' from l0 + l1 x^2 + l2 x^4 */
#define STEP(nx, ny, x, y, a, b)                                                                   \
    double x2 = (x) * (x), y2 = 0.5 * (y) * (y);                                                   \
    double l = l0 + x2 * (l1 + l2 * x2), dl = (x) * (2 * l1 + 4 * l2 * x2);                        \
    double ddl = 2 * l1 + 12 * l2 * x2, hxy = dl * (y);                                            \
    double nx = (x) - dt * (slope * (x) + dl * y2) + (slope + ddl * y2) * (a) + hxy * (b);         \
    double ny = (y) - dt * (l * (y)) + hxy * (a) + l * (b)

void valley_lanes(long groups, long steps, uint64_t seed, double dt, double delta, double slope,
                  double l0, double l1, double l2, double limit, double *positions, double *sums) {
    const double scale = sqrt(dt * 2 * delta);
    for (long g = 0; g < groups; g++) {
        uint64_t s0[LANES], s1[LANES], s2[LANES], s3[LANES], w0[LANES], w1[LANES];
        double X[LANES], Y[LANES], A[LANES], B[LANES], bound[LANES], S[7][LANES];
        for (int l_ = 0; l_ < LANES; l_++) {
            uint64_t s = seed + 0x632be59bd9b4e019ULL * (uint64_t)(g * LANES + l_);
            s0[l_] = splitmix(&s); s1[l_] = splitmix(&s);
            s2[l_] = splitmix(&s); s3[l_] = splitmix(&s);
            X[l_] = positions[(2 * g) * LANES + l_];
            Y[l_] = positions[(2 * g + 1) * LANES + l_];
            bound[l_] = limit;
            for (int k = 0; k < 7; k++) S[k][l_] = 0;
        }
        for (long step = 0; step < steps; step++) {
            for (int i = 0; i < LANES; i++) {
                XOSHIRO(w0[i], s0[i], s1[i], s2[i], s3[i]);
                XOSHIRO(w1[i], s0[i], s1[i], s2[i], s3[i]);
            }
            for (int i = 0; i < LANES; i++) {
                double u = 2.0 - as_double((w0[i] >> 12) | 0x3FF0000000000000ULL);
                uint64_t bits = as_bits(u);
                double e = as_double((bits >> 52) | 0x4330000000000000ULL);
                double m = as_double((bits & 0x000FFFFFFFFFFFFFULL) | 0x3FF0000000000000ULL);
                double s = (m - 1.4142135623730951) / (m + 1.4142135623730951), q = s * s;
                double p = 0.19608095639753053 * q + 0.2217424991007749;
                p = p * q + 0.28572166145875725;
                p = p * q + 0.3999999489183238;
                p = p * q + 0.6666666667957925;
                p = p * q + 1.9999999999999472;
                double lu = (e - 4503599627371519.0) * 0.6931471805599453
                            + (p * s + 0.34657359027997264);
                double r = scale * sqrt(fabs(lu));
                double t = as_double((w1[i] >> 12) | 0x3FF0000000000000ULL) - 1.5;
                q = t * t;
                double sn = -3.556386260704784e-06 * q + 0.00016042926504495616;
                sn = sn * q - 0.004681752591458208;
                sn = sn * q + 0.07969262612615574;
                sn = sn * q - 0.6459640975043091;
                sn = (sn * q + 1.5707963267948899) * t;
                double cs = -2.4850963357813638e-05 * q + 0.0009191617369539573;
                cs = cs * q - 0.020863468002244645;
                cs = cs * q + 0.2536695071537043;
                cs = cs * q - 1.2337005501201592;
                cs = cs * q + 0.9999999999999444;
                A[i] = as_double(as_bits(r * (cs - sn)) ^ ((w1[i] & 1) << 63));
                B[i] = as_double(as_bits(r * (cs + sn)) ^ ((w1[i] & 2) << 62));
            }
            for (int i = 0; i < LANES; i++) {
                STEP(nx, ny, X[i], Y[i], A[i], B[i]);
                int inside = (fabs(nx) < bound[i]) & (fabs(ny) < bound[i]);
                X[i] = inside ? nx : X[i];
                Y[i] = inside ? ny : Y[i];
                bound[i] = inside ? bound[i] : -1.0;
            }
            for (int i = 0; i < LANES; i++) {
                S[0][i] += X[i]; S[1][i] += Y[i];
                S[2][i] += fabs(X[i]); S[3][i] += fabs(Y[i]);
                S[4][i] += X[i] * X[i]; S[5][i] += X[i] * Y[i]; S[6][i] += Y[i] * Y[i];
            }
        }
        for (int i = 0; i < LANES; i++) {
            positions[(2 * g) * LANES + i] = X[i];
            positions[(2 * g + 1) * LANES + i] = Y[i];
            for (int k = 0; k < 7; k++) sums[(7 * g + k) * LANES + i] = S[k][i];
        }
    }
}

void valley_plain(long walkers, long steps, uint64_t seed, double dt, double delta, double slope,
                  double l0, double l1, double l2, double limit, double *positions, double *sums) {
    const double scale = sqrt(dt * 2 * delta), turn = 6.283185307179586;
    for (long w = 0; w < walkers; w++) {
        uint64_t s = seed + 0x632be59bd9b4e019ULL * (uint64_t)w, w0, w1;
        uint64_t s0 = splitmix(&s), s1 = splitmix(&s), s2 = splitmix(&s), s3 = splitmix(&s);
        double x = positions[2 * w], y = positions[2 * w + 1], S[7] = {0};
        for (long step = 0; step < steps; step++) {
            XOSHIRO(w0, s0, s1, s2, s3);
            XOSHIRO(w1, s0, s1, s2, s3);
            double r = scale * sqrt(-2.0 * log(((w0 >> 11) + 1) * 0x1p-53));
            double a = (w1 >> 11) * (turn * 0x1p-53);
            double A = r * cos(a), B = r * sin(a);
            STEP(nx, ny, x, y, A, B);
            if (!(fabs(nx) < limit) || !(fabs(ny) < limit)) break;
            x = nx; y = ny;
            S[0] += x; S[1] += y; S[2] += fabs(x); S[3] += fabs(y);
            S[4] += x * x; S[5] += x * y; S[6] += y * y;
        }
        positions[2 * w] = x; positions[2 * w + 1] = y;
        for (int k = 0; k < 7; k++) sums[7 * w + k] = S[k];
    }
}
