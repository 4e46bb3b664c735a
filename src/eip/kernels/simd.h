// Vectors of the machine's width, a matrix product for blocks that lie in cache, SiLU.
//
// GCC's and Clang's vector types: the same source gives AVX-512, AVX2 or NEON, whatever
// -march=native allows.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#if defined(__AVX512F__)
constexpr int VECTOR_BYTES = 64, TILE_ROWS = 6, TILE_VECTORS = 4;  // 24 of 32 registers accumulate
#elif defined(__AVX__)
constexpr int VECTOR_BYTES = 32, TILE_ROWS = 6, TILE_VECTORS = 2;  // 12 of 16
#else
constexpr int VECTOR_BYTES = 16, TILE_ROWS = 4, TILE_VECTORS = 4;
#endif

template <class T>
struct Simd {
    static constexpr int LANES = VECTOR_BYTES / sizeof(T);
    typedef T vec __attribute__((vector_size(VECTOR_BYTES)));
    // The same, wherever in memory it lies.
    typedef T unaligned __attribute__((vector_size(VECTOR_BYTES), aligned(alignof(T)), may_alias));
};
template <class T>
using vec = typename Simd<T>::vec;

// Whether channels go by two vectors at a time or by one.
template <class T>
constexpr bool by_two(int64_t channels) {
    return channels % (2 * Simd<T>::LANES) == 0;
}

constexpr double NORM_EPSILON = 1e-8;  // under the root of a norm, as in features.py

template <class T>
static inline vec<T> load(const T* p) {
    return *reinterpret_cast<const typename Simd<T>::unaligned*>(p);
}
template <class T>
static inline void store(T* p, vec<T> v) {
    *reinterpret_cast<typename Simd<T>::unaligned*>(p) = v;
}

// Memory that starts on a cache line: a vector across two lines takes twice as long.
template <class T>
struct Room {
    std::vector<T> memory;

    T* take(size_t count) {
        constexpr size_t LINE = 64 / sizeof(T);
        if (memory.size() < count + LINE) memory.resize(count + LINE);
        const auto at = reinterpret_cast<uintptr_t>(memory.data());
        return memory.data() + (64 - at % 64) % 64 / sizeof(T);
    }
};

// ---------------------------------------------------------------------------------- reductions

// Sums of four vectors' lanes.
template <class T>
static inline void sum4(vec<T> a, vec<T> b, vec<T> c, vec<T> d, T* out) {
    T sums[4] = {0, 0, 0, 0};
    for (int i = 0; i < Simd<T>::LANES; i++) {
        sums[0] += a[i];
        sums[1] += b[i];
        sums[2] += c[i];
        sums[3] += d[i];
    }
    for (int i = 0; i < 4; i++) out[i] += sums[i];
}

#if defined(__AVX512F__) && defined(__AVX512DQ__)
#include <immintrin.h>
template <>
inline void sum4<float>(vec<float> a, vec<float> b, vec<float> c, vec<float> d, float* out) {
    // Transposed while added, so that one tree of additions serves all four.
    __m512 ab = _mm512_unpacklo_ps((__m512)a, (__m512)b) + _mm512_unpackhi_ps((__m512)a, (__m512)b);
    __m512 cd = _mm512_unpacklo_ps((__m512)c, (__m512)d) + _mm512_unpackhi_ps((__m512)c, (__m512)d);
    __m512 abcd = _mm512_shuffle_ps(ab, cd, 0x44) + _mm512_shuffle_ps(ab, cd, 0xEE);
    __m256 half = _mm512_castps512_ps256(abcd) + _mm512_extractf32x8_ps(abcd, 1);
    __m128 sums = _mm256_castps256_ps128(half) + _mm256_extractf128_ps(half, 1);
    _mm_storeu_ps(out, _mm_loadu_ps(out) + sums);
}
#endif

// --------------------------------------------------------------------------------- activations

static inline vec<double> exponential(vec<double> x) {
    vec<double> y;
    for (int i = 0; i < Simd<double>::LANES; i++) y[i] = std::exp(x[i]);
    return y;
}

// Cephes' expf: x = n ln 2 + r, a polynomial in r, 2^n put into the exponent. Within 2 ulp.
static inline vec<float> exponential(vec<float> x) {
    typedef int32_t ints __attribute__((vector_size(VECTOR_BYTES)));
    x = x < -87.0f ? vec<float>{} - 87.0f : x;
    x = x > 88.0f ? vec<float>{} + 88.0f : x;
    const float magic = 12582912.0f;  // 1.5 · 2²³: adding it rounds to an integer
    vec<float> n = (x * 1.44269504088896341f + magic) - magic;
    vec<float> r = x - n * 0.693359375f + n * 2.12194440e-4f;
    vec<float> p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    ints exponent = (__builtin_convertvector(n, ints) + 127) << 23;
    vec<float> scale;
    std::memcpy(&scale, &exponent, sizeof scale);
    return p * scale;
}

template <class T>
static inline vec<T> silu(vec<T> x) {
    return x / (T(1) + exponential(-x));
}
template <class T>
static inline vec<T> silu_slope(vec<T> x) {
    vec<T> s = T(1) / (T(1) + exponential(-x));
    return s * (T(1) + x * (T(1) - s));
}

template <class T>
static inline vec<T> square_root(vec<T> x) {
    vec<T> y;
    for (int i = 0; i < Simd<T>::LANES; i++) y[i] = std::sqrt(x[i]);
    return y;
}
#if defined(__AVX512F__) && defined(__AVX512DQ__)
template <>
inline vec<float> square_root<float>(vec<float> x) {
    return (vec<float>)_mm512_sqrt_ps((__m512)x);
}
#endif

// ------------------------------------------------------------------------------ matrix product
//
// C [rows, columns] = A [rows, depth] · B (+ bias). B is packed in panels of up to
// TILE_VECTORS · LANES columns, each panel [depth, width] contiguous; columns are a multiple of
// LANES.

template <class T>
static void pack(const T* b, int depth, int columns, ptrdiff_t stride_depth,
                 ptrdiff_t stride_column, T* packed) {
    const int wide = TILE_VECTORS * Simd<T>::LANES;
    for (int start = 0; start < columns; start += wide) {
        const int width = columns - start < wide ? columns - start : wide;
        for (int k = 0; k < depth; k++)
            for (int n = 0; n < width; n++)
                *packed++ = b[k * stride_depth + (start + n) * stride_column];
    }
}

enum class Start { zero, bias, add };

template <class T, int ROWS, int VECTORS>
static inline void tile(const T* a, ptrdiff_t lda, const T* b, int depth, T* c, ptrdiff_t ldc,
                        const T* bias, Start start) {
    constexpr int L = Simd<T>::LANES;
    vec<T> sum[ROWS][VECTORS];
    for (int m = 0; m < ROWS; m++)
        for (int v = 0; v < VECTORS; v++)
            sum[m][v] = start == Start::zero   ? vec<T>{}
                        : start == Start::bias ? load(bias + v * L)
                                               : load(c + m * ldc + v * L);
    for (int k = 0; k < depth; k++) {
        vec<T> row[VECTORS];
        for (int v = 0; v < VECTORS; v++) row[v] = load(b + (k * VECTORS + v) * L);
        for (int m = 0; m < ROWS; m++) {
            const T scalar = a[m * lda + k];
            for (int v = 0; v < VECTORS; v++) sum[m][v] += scalar * row[v];
        }
    }
    for (int m = 0; m < ROWS; m++)
        for (int v = 0; v < VECTORS; v++) store(c + m * ldc + v * L, sum[m][v]);
}

template <class T, int VECTORS, int ROWS = TILE_ROWS>
static inline void rows_left(int rows, const T* a, ptrdiff_t lda, const T* b, int depth, T* c,
                             ptrdiff_t ldc, const T* bias, Start start) {
    if (rows == ROWS)
        tile<T, ROWS, VECTORS>(a, lda, b, depth, c, ldc, bias, start);
    else if constexpr (ROWS > 1)
        rows_left<T, VECTORS, ROWS - 1>(rows, a, lda, b, depth, c, ldc, bias, start);
}

template <class T, int VECTORS>
static void panel(int rows, const T* a, ptrdiff_t lda, const T* b, int depth, T* c, ptrdiff_t ldc,
                  const T* bias, Start start) {
    int m = 0;
    for (; m + TILE_ROWS <= rows; m += TILE_ROWS)
        tile<T, TILE_ROWS, VECTORS>(a + m * lda, lda, b, depth, c + m * ldc, ldc, bias, start);
    if (m < rows)
        rows_left<T, VECTORS>(rows - m, a + m * lda, lda, b, depth, c + m * ldc, ldc, bias, start);
}

template <class T>
static void matmul(int rows, int columns, int depth, const T* a, ptrdiff_t lda, const T* packed,
                   T* c, ptrdiff_t ldc, const T* bias, Start start) {
    constexpr int L = Simd<T>::LANES;
    for (int n = 0; n < columns;) {
        const int left = (columns - n) / L;
        const int vectors = left < TILE_VECTORS ? left : TILE_VECTORS;
        const T* b = packed + static_cast<ptrdiff_t>(n) * depth;
        const T* bias_here = bias ? bias + n : nullptr;
        if (vectors >= 4)
            panel<T, 4 <= TILE_VECTORS ? 4 : 1>(rows, a, lda, b, depth, c + n, ldc, bias_here, start);
        else if (vectors == 3)
            panel<T, 3 <= TILE_VECTORS ? 3 : 1>(rows, a, lda, b, depth, c + n, ldc, bias_here, start);
        else if (vectors == 2)
            panel<T, 2>(rows, a, lda, b, depth, c + n, ldc, bias_here, start);
        else
            panel<T, 1>(rows, a, lda, b, depth, c + n, ldc, bias_here, start);
        n += vectors * L;
    }
}
