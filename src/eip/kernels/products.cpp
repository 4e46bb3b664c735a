// The products at an atom (products.h) for training: values, gradient, tangent, gradient of the tangent.
#include <omp.h>

#include <algorithm>
#include <type_traits>

#include "products.h"

namespace {

using namespace products;

template <class T>
struct Problem {
    int64_t atoms;
    int F;
    const int64_t* species;
    const T* weights;
    int threads;
    T inverse_square;  // of the limit

    int64_t size() const { return atoms * F; }
    const T* of(int64_t i, int c) const {
        return weights + species[i] * PRODUCTS * F + c * Simd<T>::LANES;
    }
};

template <class T, bool TANGENT>
void values(const Problem<T>& p, const Arrays<const T>& a, const Arrays<const T>& dots,
            const Arrays<T>& out) {
    constexpr int L = Simd<T>::LANES;
    typedef std::conditional_t<TANGENT, Dual<vec<T>>, vec<T>> N;
#pragma omp parallel for schedule(static) num_threads(p.threads)
    for (int64_t i = 0; i < p.atoms; i++)
        for (int c = 0; c < p.F / L; c++) {
            const int64_t at = i * p.F + c * L;
            vec<T> weight[PRODUCTS];
            for (int k = 0; k < PRODUCTS; k++) weight[k] = load(p.of(i, c) + k * p.F);
            Triple<N> one;
            read<T>(a, dots, p.size(), at, one);
            write<T>(out, p.size(), at, bounded_values<T>(one, weight, p.inverse_square));
        }
}

// Each thread owns chunks of channels, in `groups` copies of the weights for as many parts of the atoms:
// the order of sums does not depend on how many threads there are. Without weights, to_weights is null.
template <class T, bool TANGENT>
void gradient(const Problem<T>& p, const Arrays<const T>& g, const Arrays<const T>& a,
              const Arrays<const T>& dots, const Arrays<T>& to, T* to_weights, int64_t elements,
              int64_t groups) {
    constexpr int L = Simd<T>::LANES;
    typedef std::conditional_t<TANGENT, Dual<vec<T>>, vec<T>> N;
    const int64_t chunks = p.F / L, size = elements * PRODUCTS * p.F;
#pragma omp parallel for schedule(dynamic, 1) num_threads(p.threads)
    for (int64_t task = 0; task < chunks * groups; task++) {
        const int64_t c = task % chunks, group = task / chunks;
        const int64_t start = p.atoms * group / groups, stop = p.atoms * (group + 1) / groups;
        T* own = to_weights ? to_weights + group * size + c * L : nullptr;
        if (own)
            for (int64_t k = 0; k < elements * PRODUCTS; k++) store<T>(own + k * p.F, vec<T>{});
        for (int64_t i = start; i < stop; i++) {
            const int64_t at = i * p.F + c * L;
            vec<T> weight[PRODUCTS];
            for (int k = 0; k < PRODUCTS; k++)
                weight[k] = load(p.of(i, static_cast<int>(c)) + k * p.F);
            Triple<N> one;
            Triple<vec<T>> from;
            N to_c[PRODUCTS];
            read<T>(a, dots, p.size(), at, one);
            read<T>(g, g, p.size(), at, from);
            write<T>(to, p.size(), at, bounded_gradient<T>(one, weight, from, p.inverse_square, to_c));
            if (own)
                for (int k = 0; k < PRODUCTS; k++) {
                    T* out = own + (p.species[i] * PRODUCTS + k) * p.F;
                    store<T>(out, load(out) + dot_or_self(to_c[k]));
                }
        }
    }
}

}  // namespace

#define PROBLEM(T) \
    Problem<T> { atoms, static_cast<int>(F), species, weights, static_cast<int>(threads), static_cast<T>(inverse_square) }
#define EXPORT(T, SUFFIX)                                                                          \
    extern "C" void eip_products_##SUFFIX(                                                         \
        int64_t atoms, int64_t F, int64_t elements, int64_t threads, int64_t groups,               \
        double inverse_square,                                                                     \
        const int64_t* species, const T* weights, const T* x, const T* x_dot, const T* u,          \
        const T* u_dot, const T* m, const T* m_dot, T* s_out, T* v_out, T* t_out) {                \
        (x_dot ? values<T, true> : values<T, false>)(PROBLEM(T), {x, u, m}, {x_dot, u_dot, m_dot}, \
                                                     {s_out, v_out, t_out});                       \
    }                                                                                              \
    extern "C" void eip_products_gradient_##SUFFIX(                                                \
        int64_t atoms, int64_t F, int64_t elements, int64_t threads, int64_t groups,               \
        double inverse_square,                                                                     \
        const int64_t* species, const T* weights, const T* g_s, const T* g_v, const T* g_t,        \
        const T* x, const T* x_dot, const T* u, const T* u_dot, const T* m, const T* m_dot,        \
        T* to_x, T* to_u, T* to_m, T* to_weights) {                                                \
        (x_dot ? gradient<T, true> : gradient<T, false>)(                                          \
            PROBLEM(T), {g_s, g_v, g_t}, {x, u, m}, {x_dot, u_dot, m_dot}, {to_x, to_u, to_m},     \
            to_weights, elements, groups);                                                         \
    }

EXPORT(float, f32)
EXPORT(double, f64)
