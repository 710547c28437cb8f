/* Reference for the ensemble benchmark in many dimensions: a valley of n_flat + 5 variables, random-shift noise.
 *
 * lambda_i(x) = l_i + sum_j (a_ij x_j^2 + b_ij x_j^4), L = sum_i lambda_i y_i^2 / 2 + lift sum_j x_j^2 / 2. The same
 * arithmetic as the compiled kernel: Euler-Maruyama, H xi without H, polynomial Box-Muller, a check of
 * the radius in every step, float64. Randomness: xoshiro256++, one generator per walker. Walkers advance in
 * lanes, so that the compiler can use SIMD; LANES was chosen for speed.
 *
 * cc -O3 -march=native -ffp-contract=fast -fno-math-errno -shared -fPIC valley_high_dimension.c -o valley.so -lm
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifndef LANES
#define LANES 16
#endif
#define NS 5

static inline uint64_t rotl(uint64_t x, int k) { return (x << k) | (x >> (64 - k)); }

static uint64_t splitmix(uint64_t *s) {
    uint64_t z = (*s += 0x9e3779b97f4a7c15ULL);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    return z ^ (z >> 31);
}

static inline double as_double(uint64_t b) { double d; memcpy(&d, &b, 8); return d; }
static inline uint64_t as_bits(double d) { uint64_t b; memcpy(&b, &d, 8); return b; }

typedef struct { uint64_t s0[LANES], s1[LANES], s2[LANES], s3[LANES]; } generators;

/* one pair of normals for every lane */
static inline void draw(generators *g, double scale, double *restrict A, double *restrict B) {
    uint64_t w0[LANES], w1[LANES];
    for (int k = 0; k < 2; k++) {
        uint64_t *w = k ? w1 : w0;
        for (int l = 0; l < LANES; l++) {
            uint64_t t = g->s1[l] << 17;
            w[l] = rotl(g->s0[l] + g->s3[l], 23) + g->s0[l];
            g->s2[l] ^= g->s0[l]; g->s3[l] ^= g->s1[l]; g->s1[l] ^= g->s2[l]; g->s0[l] ^= g->s3[l];
            g->s2[l] ^= t; g->s3[l] = rotl(g->s3[l], 45);
        }
    }
    for (int l = 0; l < LANES; l++) {
        double u = 2.0 - as_double((w0[l] >> 12) | 0x3FF0000000000000ULL);
        uint64_t bits = as_bits(u);
        double e = as_double((bits >> 52) | 0x4330000000000000ULL);
        double m = as_double((bits & 0x000FFFFFFFFFFFFFULL) | 0x3FF0000000000000ULL);
        double s = (m - 1.4142135623730951) / (m + 1.4142135623730951), q = s * s;
        double p = 0.19608095639753053 * q + 0.2217424991007749;
        p = p * q + 0.28572166145875725;
        p = p * q + 0.3999999489183238;
        p = p * q + 0.6666666667957925;
        p = p * q + 1.9999999999999472;
        double lu = (e - 4503599627371519.0) * 0.6931471805599453 + (p * s + 0.34657359027997264);
        double r = scale * sqrt(fabs(lu));
        double t = as_double((w1[l] >> 12) | 0x3FF0000000000000ULL) - 1.5;
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
        A[l] = as_double(as_bits(r * (cs - sn)) ^ ((w1[l] & 1) << 63));
        B[l] = as_double(as_bits(r * (cs + sn)) ^ ((w1[l] & 2) << 62));
    }
}

/* positions: groups of (n_flat + 5) rows of LANES; exits: the step at which a walker left, or -1 */
void valley(long groups, long steps, uint64_t seed, long n_flat, double dt, double delta, double lift, double limit,
            const double *constant, const double *a, const double *b, double *positions, int64_t *exits) {
    const double scale = sqrt(dt), shift = sqrt(2 * delta);
    const long n = n_flat + NS, pairs = (n + 1) / 2;
    double *noise = aligned_alloc(64, 2 * pairs * LANES * sizeof(double));
    double *next = aligned_alloc(64, ((n * LANES + 7) / 8 * 8) * sizeof(double));
    for (long group = 0; group < groups; group++) {
        double *restrict at = positions + group * n * LANES;
        generators g;
        double bound[LANES];
        for (int l = 0; l < LANES; l++) {
            uint64_t s = seed + 0x632be59bd9b4e019ULL * (uint64_t)(group * LANES + l);
            g.s0[l] = splitmix(&s); g.s1[l] = splitmix(&s); g.s2[l] = splitmix(&s); g.s3[l] = splitmix(&s);
            bound[l] = limit * limit;
        }
        for (long step = 0; step < steps; step++) {
            double W[NS][LANES], H[NS][LANES], S[NS][LANES], C[NS][LANES], radius[LANES];
            for (long p = 0; p < pairs; p++)
                draw(&g, scale, noise + 2 * p * LANES, noise + (2 * p + 1) * LANES);
            for (int i = 0; i < NS; i++)
                for (int l = 0; l < LANES; l++) {
                    double y = at[(n_flat + i) * LANES + l], h = 0.5 * y * y;
                    H[i][l] = h;
                    W[i][l] = shift * y * noise[(n_flat + i) * LANES + l] - dt * h;
                    C[i][l] = constant[i];
                    S[i][l] = 0;
                }
            for (int l = 0; l < LANES; l++) radius[l] = 0;
            for (long j = 0; j < n_flat; j++) {
                const double *restrict aj = a + j * NS, *restrict bj = b + j * NS;
                double X[LANES], M[LANES], N[LANES];
                memcpy(X, at + j * LANES, sizeof X);
                memcpy(M, noise + j * LANES, sizeof M);
                for (int l = 0; l < LANES; l++) {
                    double x = X[l], m = M[l], q = x * x, xm = x * m, qq = q * q, qs = 2 * q * xm, aw = 0, bw = 0, ah = 0, bh = 0;
                    for (int i = 0; i < NS; i++) {
                        aw += aj[i] * W[i][l]; bw += bj[i] * W[i][l];
                        ah += aj[i] * H[i][l]; bh += bj[i] * H[i][l];
                        C[i][l] += aj[i] * q + bj[i] * qq;
                        S[i][l] += aj[i] * xm + bj[i] * qs;
                    }
                    double nx = x + x * (2 * aw + 4 * q * bw) - dt * lift * x + shift * (lift + 2 * ah + 12 * q * bh) * m;
                    N[l] = nx;
                    radius[l] += nx * nx;
                }
                memcpy(next + j * LANES, N, sizeof N);
            }
            for (int i = 0; i < NS; i++)
                for (int l = 0; l < LANES; l++) {
                    double y = at[(n_flat + i) * LANES + l], nu = noise[(n_flat + i) * LANES + l];
                    double ny = y - dt * C[i][l] * y + shift * (C[i][l] * nu + 2 * y * S[i][l]);
                    next[(n_flat + i) * LANES + l] = ny;
                    radius[l] += ny * ny;
                }
            int inside = 0;
            for (int l = 0; l < LANES; l++) {
                int in = radius[l] < bound[l];
                bound[l] = in ? bound[l] : 0;
                inside += in;
            }
            if (inside < LANES)
                for (int l = 0; l < LANES; l++)
                    if (bound[l] == 0) {
                        for (long k = 0; k < n; k++) next[k * LANES + l] = at[k * LANES + l];
                        if (exits[group * LANES + l] < 0) exits[group * LANES + l] = step + 1;
                    }
            memcpy(at, next, n * LANES * sizeof(double));
        }
    }
    free(noise);
    free(next);
}
