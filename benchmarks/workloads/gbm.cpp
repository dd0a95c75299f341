// Euler-Maruyama for geometric Brownian motion in one pass over the paths, noise included: what a machine can do.
//
//     y <- y + mu h y + sigma sqrt(h) y z,      z from Philox4x32-10 by Box-Muller
//
// Built by gbm_hand.py. A tile of paths keeps its states in registers and in the first cache for all steps; every
// loop over a tile is plain C++ that the compiler turns into vector instructions.
//
// Salmon, Moraes, Dror & Shaw (2011). Parallel random numbers: as easy as 1, 2, 3. SC'11.

#include <cmath>
#include <cstdint>
#include <cstring>

namespace {

constexpr int TILE = 64;

struct Block {
    uint32_t x[4];
};

inline Block philox(uint32_t path, uint32_t block, uint32_t key0, uint32_t key1) {
    uint32_t a = path, b = 0, c = block, d = 0;
    for (int round = 0; round < 10; ++round) {
        const uint64_t left = uint64_t(0xD2511F53u) * a, right = uint64_t(0xCD9E8D57u) * c;
        a = uint32_t(right >> 32) ^ b ^ key0;
        c = uint32_t(left >> 32) ^ d ^ key1;
        b = uint32_t(right);
        d = uint32_t(left);
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
    return {{a, b, c, d}};
}

// log u for 0 < u <= 1: u = 2^e m with m in [sqrt(1/2), sqrt(2)), and log m = 2 artanh((m - 1) / (m + 1))
inline float log_unit(float u) {
    int32_t bits;
    std::memcpy(&bits, &u, 4);
    const int32_t e = (bits - 0x3F3504F3) >> 23;
    bits -= e << 23;
    float m;
    std::memcpy(&m, &bits, 4);
    const float s = (m - 1.0f) / (m + 1.0f), q = s * s;
    const float series = 2.0f + q * (0.66666667f + q * (0.4f + q * (0.28571429f + q * 0.23f)));
    return float(e) * 0.69314718f + s * series;
}

// sin and cos of 2 pi times a fraction in units of 2^-32: the nearest quarter turn apart, the rest by Taylor series
inline void turn(uint32_t fraction, float& sine, float& cosine) {
    const uint32_t quarter = (fraction + 0x20000000u) >> 30;
    const float r = float(int32_t(fraction - (quarter << 30))) * 1.4629180792671596e-9f;  // 2 pi / 2^32
    const float q = r * r;
    const float s = r * (1.0f + q * (-0.16666667f + q * (8.3333333e-3f + q * -1.9515296e-4f)));
    const float c = 1.0f + q * (-0.5f + q * (4.1666667e-2f + q * (-1.3888889e-3f + q * 2.4433157e-5f)));
    const bool odd = quarter & 1u;
    const float first = odd ? c : s, second = odd ? s : c;
    sine = quarter & 2u ? -first : first;
    cosine = (quarter + 1u) & 2u ? -second : second;
}

// two normals from two words
inline void normals(uint32_t radius, uint32_t angle, float& z0, float& z1) {
    const float u = (float(int32_t(radius >> 8)) + 0.5f) * 5.9604645e-8f;  // 2^-24
    const float r = std::sqrt(-2.0f * log_unit(u));
    float s, c;
    turn(angle, s, c);
    z0 = r * c;
    z1 = r * s;
}

}  // namespace

// y : (paths,), the start, replaced by the end. Takes ceil(steps / 4) blocks of four normals a path.
extern "C" void solve(float* y, int64_t paths, int64_t steps, float mu, float sigma, uint64_t seed, int threads) {
    const float h = 1.0f / float(steps), drift = mu * h, noise = sigma * std::sqrt(h);
    const uint32_t key0 = uint32_t(seed), key1 = uint32_t(seed >> 32);
    const int64_t tiles = (paths + TILE - 1) / TILE;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t tile = 0; tile < tiles; ++tile) {
        const int64_t start = tile * TILE;
        const int count = int(paths - start < TILE ? paths - start : TILE);
        alignas(64) float state[TILE] = {};
        for (int i = 0; i < count; ++i) state[i] = y[start + i];
        for (int64_t done = 0; done < steps; done += 4) {
            // a normal past the last step has no weight
            const float d1 = done + 1 < steps ? drift : 0, n1 = done + 1 < steps ? noise : 0;
            const float d2 = done + 2 < steps ? drift : 0, n2 = done + 2 < steps ? noise : 0;
            const float d3 = done + 3 < steps ? drift : 0, n3 = done + 3 < steps ? noise : 0;
#pragma omp simd
            for (int i = 0; i < TILE; ++i) {
                const Block w = philox(uint32_t(start) + uint32_t(i), uint32_t(done / 4), key0, key1);
                float z0, z1, z2, z3;
                normals(w.x[0], w.x[1], z0, z1);
                normals(w.x[2], w.x[3], z2, z3);
                float v = state[i];
                v += v * (drift + noise * z0);
                v += v * (d1 + n1 * z1);
                v += v * (d2 + n2 * z2);
                v += v * (d3 + n3 * z3);
                state[i] = v;
            }
        }
        for (int i = 0; i < count; ++i) y[start + i] = state[i];
    }
}

// What a test looks at: the normals of one block of a path.
extern "C" void block(uint32_t path, uint32_t number, uint64_t seed, uint32_t* words, float* z) {
    const Block w = philox(path, number, uint32_t(seed), uint32_t(seed >> 32));
    for (int i = 0; i < 4; ++i) words[i] = w.x[i];
    normals(w.x[0], w.x[1], z[0], z[1]);
    normals(w.x[2], w.x[3], z[2], z[3]);
}
