// Invariants of each atom, and how far they are from those of the training atoms: forward alone.
//
// The sums are those of features.py; what goes is the dozens of small operations between
// them, and the vectors along the edges, which need not be written down for it.
#include <omp.h>

#include <algorithm>
#include <cmath>

#include "simd.h"

namespace {

// out[i] = scalars[i], lengths of vectors[i]
template <class T>
void invariants(int64_t atoms, int F, const T* scalars, const T* vectors, T* out) {
    for (int64_t i = 0; i < atoms; i++) {
        std::memcpy(out + i * 2 * F, scalars + i * F, F * sizeof(T));
        const T* v = vectors + i * 3 * F;
        T* length = out + i * 2 * F + F;
        for (int f = 0; f < F; f++) {
            const T x = v[f], y = v[F + f], z = v[2 * F + f];
            length[f] = std::sqrt(x * x + y * y + z * z + T(NORM_EPSILON));
        }
    }
}

// own[i]: mean square of (x_i − mean) · whitening of the atom's species, plus epsilon.
template <class T>
void squared_distance(int64_t atoms, int width, int64_t species_count, const T* x,
                      const int64_t* species, const T* means, const T* whitening, T epsilon,
                      T* own, int threads) {
    constexpr int64_t SIZE = 24;
    // Atoms of a species next to each other: one matrix for a block.
    std::vector<int64_t> first(species_count + 1, 0), order(atoms);
    for (int64_t i = 0; i < atoms; i++) first[species[i] + 1]++;
    for (int64_t k = 0; k < species_count; k++) first[k + 1] += first[k];
    std::vector<int64_t> next(first.begin(), first.end() - 1);
    for (int64_t i = 0; i < atoms; i++) order[next[species[i]]++] = i;
    struct Block {
        int64_t kind, start, stop;
    };
    std::vector<Block> blocks;
    for (int64_t k = 0; k < species_count; k++)
        for (int64_t start = first[k]; start < first[k + 1]; start += SIZE)
            blocks.push_back({k, start, std::min(first[k + 1], start + SIZE)});
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
    for (size_t b = 0; b < blocks.size(); b++) {
        const Block block = blocks[b];
        const int n = static_cast<int>(block.stop - block.start);
        static thread_local Room<T> room;
        T* away = room.take(static_cast<size_t>(n) * 2 * width);
        T* white = away + n * width;
        const T* mean = means + block.kind * width;
        for (int r = 0; r < n; r++) {
            const T* row = x + order[block.start + r] * width;
            for (int c = 0; c < width; c++) away[r * width + c] = row[c] - mean[c];
        }
        matmul<T>(n, width, width, away, width, whitening + block.kind * width * width, white,
                  width, nullptr, Start::zero);
        for (int r = 0; r < n; r++) {
            constexpr int L = Simd<T>::LANES;
            vec<T> sum = vec<T>{};
            for (int c = 0; c < width; c += L) {
                const vec<T> w = load(white + r * width + c);
                sum += w * w;
            }
            T total = 0;
            for (int l = 0; l < L; l++) total += sum[l];
            own[order[block.start + r]] = total / width + epsilon;
        }
    }
}

// around[i] = (own[i] + Σ_e w_e own[j]) / (1 + Σ_e w_e), w = (1 − r²/rc²)² inside the cutoff; edges
// are sorted by centre.
template <class T>
void neighborhood(int64_t atoms, int64_t edges, const double* positions, const double* cell,
                  const int64_t* frame, const int64_t* centers, const int64_t* neighbors,
                  const float* shifts, double cutoff, const T* own, T* around, int64_t* first,
                  int threads) {
    int64_t at = 0;
    for (int64_t i = 0; i < atoms; i++) {
        while (at < edges && centers[at] < i) at++;
        first[i] = at;
    }
    first[atoms] = edges;
    const double inverse = 1 / (cutoff * cutoff);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t i = 0; i < atoms; i++) {
        T total = own[i], weight = 1;
        const double* from = positions + 3 * i;
        const double* c = cell + 9 * frame[i];
        for (int64_t e = first[i]; e < first[i + 1]; e++) {
            const double* to = positions + 3 * neighbors[e];
            const float* s = shifts + 3 * e;
            double square = 0;
            for (int k = 0; k < 3; k++) {
                const double d = to[k] - from[k] + s[0] * c[k] + s[1] * c[3 + k] + s[2] * c[6 + k];
                square += d * d;
            }
            const T left = static_cast<T>(std::max(0.0, 1.0 - square * inverse));
            total += left * left * own[neighbors[e]];
            weight += left * left;
        }
        around[i] = total / weight;
    }
}

}  // namespace

#define EXPORT(T, SUFFIX)                                                                          \
    extern "C" void eip_invariants_##SUFFIX(int64_t atoms, int64_t F, const T* scalars,            \
                                            const T* vectors, T* out) {                            \
        invariants<T>(atoms, static_cast<int>(F), scalars, vectors, out);                          \
    }                                                                                              \
    extern "C" void eip_squared_distance_##SUFFIX(                                                 \
        int64_t atoms, int64_t width, int64_t kinds, const T* x, const int64_t* species,           \
        const T* means, const T* whitening, double epsilon, T* own, int64_t threads) {             \
        squared_distance<T>(atoms, static_cast<int>(width), kinds, x, species, means, whitening,   \
                            static_cast<T>(epsilon), own, static_cast<int>(threads));              \
    }                                                                                              \
    extern "C" void eip_neighborhood_##SUFFIX(                                                     \
        int64_t atoms, int64_t edges, const double* positions, const double* cell,                 \
        const int64_t* frame, const int64_t* centers, const int64_t* neighbors,                    \
        const float* shifts, double cutoff, const T* own, T* around, int64_t* first,               \
        int64_t threads) {                                                                         \
        neighborhood<T>(atoms, edges, positions, cell, frame, centers, neighbors, shifts, cutoff,  \
                        own, around, first, static_cast<int>(threads));                            \
    }

EXPORT(float, f32)
EXPORT(double, f64)
