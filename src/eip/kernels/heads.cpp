// The tensor head of evidence (theory §2), forward alone: σ beside forces that nobody differentiates.
//
// The products with weights are as many as they were; what goes is the dozen of small operations
// between them, which for some hundred atoms cost more than the products.
#include <omp.h>

#include <algorithm>

#include "simd.h"

namespace {

constexpr double FLOOR = 1e-6;  // as in features.py

template <class T>
T softplus(T x) {
    return x > T(20) ? x : std::log1p(std::exp(x));
}

// width: of the last products, rank + 3 and rank rounded up to whole vectors.
template <class T>
void tensor_head(int64_t atoms, int F, int rank, int width, const T* scalars, const T* vectors,
                 const T* lengths, const T* directions, const T* hidden, const T* hidden_bias,
                 const T* out, const T* out_bias, T* nu, T* alpha, double* beta, int threads) {
    constexpr int L = Simd<T>::LANES;
    constexpr int64_t SIZE = 24;
    const int64_t blocks = (atoms + SIZE - 1) / SIZE;
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
    for (int64_t block = 0; block < blocks; block++) {
        const int64_t start = block * SIZE, stop = std::min(atoms, start + SIZE);
        const int n = static_cast<int>(stop - start);
        static thread_local Room<T> room;
        T* mixed = room.take(static_cast<size_t>(n) * (6 * F + 4 * width));  // [n, 3, F]
        T* both = mixed + n * 3 * F;       // [n, 2F]
        T* active = both + n * 2 * F;      // [n, F]
        T* raw = active + n * F;           // [n, width]
        T* u = raw + n * width;            // [n, 3, width]
        const T* v = vectors + start * 3 * F;
        matmul<T>(3 * n, F, F, v, F, lengths, mixed, F, nullptr, Start::zero);
        for (int i = 0; i < n; i++) {
            std::memcpy(both + i * 2 * F, scalars + (start + i) * F, F * sizeof(T));
            for (int f = 0; f < F; f += L) {
                const T* m = mixed + i * 3 * F + f;
                const vec<T> x = load(m), y = load(m + F), z = load(m + 2 * F);
                store<T>(both + i * 2 * F + F + f,
                         square_root<T>(x * x + y * y + z * z + T(NORM_EPSILON)));
            }
        }
        matmul<T>(n, F, 2 * F, both, 2 * F, hidden, active, F, hidden_bias, Start::bias);
        for (int i = 0; i < n * F; i += L) store<T>(active + i, silu<T>(load(active + i)));
        matmul<T>(n, width, F, active, F, out, raw, width, out_bias, Start::bias);
        matmul<T>(3 * n, width, F, v, F, directions, u, width, nullptr, Start::zero);
        for (int i = 0; i < n; i++) {
            const T* r = raw + i * width;
            nu[start + i] = softplus(r[0]) + T(FLOOR);
            alpha[start + i] = T(1) + (softplus(r[1]) + T(FLOOR));
            const double base = softplus(r[2]) + T(FLOOR);
            double* b = beta + 9 * (start + i);
            for (int k = 0; k < 9; k++) b[k] = k % 4 == 0 ? base : 0.0;
            for (int m = 0; m < rank; m++) {
                const double weight = softplus(r[3 + m]);
                const T* d = u + i * 3 * width + m;
                for (int p = 0; p < 3; p++)
                    for (int q = 0; q < 3; q++)
                        b[3 * p + q] += weight * d[p * width] * static_cast<double>(d[q * width]);
            }
        }
    }
}

}  // namespace

#define EXPORT(T, SUFFIX)                                                                          \
    extern "C" void eip_tensor_head_##SUFFIX(                                                      \
        int64_t atoms, int64_t F, int64_t rank, int64_t width, const T* scalars, const T* vectors, \
        const T* lengths, const T* directions, const T* hidden, const T* hidden_bias,              \
        const T* out, const T* out_bias, T* nu, T* alpha, double* beta, int64_t threads) {         \
        tensor_head<T>(atoms, static_cast<int>(F), static_cast<int>(rank),                         \
                       static_cast<int>(width), scalars, vectors, lengths, directions, hidden,     \
                       hidden_bias, out, out_bias, nu, alpha, beta, static_cast<int>(threads));    \
    }

EXPORT(float, f32)
EXPORT(double, f64)
