// What neighbors' scalars, vectors and symmetric traceless matrices become along edges
// (`eip.kernels.coupling`), its gradient, and the gradient of that.
//
//     s_i += Σ_j w0 a + w1 v·d + w2 dᵀt d
//     v_i += Σ_j (w3 b + w4 v·d + w5 dᵀt d) d + w6 v + w7 t d
//     t_i += Σ_j {y dᵀ}₀ + w13 t,    y = (w8 c + w9 v·d + w10 dᵀt d) d + w11 v + w12 t d
//
// (a, b, c), v and t are the neighbor's, d points from i to j, w = W(r) are cubic B-splines, {·}₀ is the
// symmetric traceless part. In a first layer v = t = 0 and three filters remain. Matrices are their
// components xx, yy, xy, xz, yz. Sum and gradient are written once, for numbers and for dual numbers:
// those give the tangents that the gradient of a loss of forces is made of, see training.cpp. As
// there, every atom gathers, and d and ḋ change sign from an edge to its reverse.
//
//     table [chunks, knots, paths, chunk]    said, v [3, atoms, F]    t [5, atoms, F]    s [atoms, F]
//
// A chunk is one vector of channels: fourteen filters and their tangents fill the registers as it is.
#pragma once

#include "dual.h"
#include "tangent.h"

namespace coupling {

constexpr int PATHS = 14, FIRST_PATHS = 3;

// What an atom says: a, b, c; vector; matrix.
template <class N>
struct Node {
    N said[3], v[3], t[5];
};

// What it hears, or the gradient in that.
template <class N>
struct Sums {
    N s, v[3], t[5];
};

// A u for a symmetric traceless A.
template <class A, class B, class N>
static inline void apply(const A* a, const B* u, N* out) {
    out[0] = a[0] * u[0] + a[2] * u[1] + a[3] * u[2];
    out[1] = a[2] * u[0] + a[1] * u[1] + a[4] * u[2];
    out[2] = a[3] * u[0] + a[4] * u[1] - (a[0] + a[1]) * u[2];
}

template <class A, class B>
static inline auto inner(const A* a, const B* b) {
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
}

// T is float or double; N a number of channels, R one of an edge, either plain or dual.
template <class T, bool FIRST, class N, class R>
static inline void couple(const R* d, const N* w, const Node<N>& x, Sums<N>& out) {
    N across[3], trace;
    if (FIRST) {
        out.s += w[0] * x.said[0];
        const N b = w[1] * x.said[1], c = w[2] * x.said[2];
        for (int k = 0; k < 3; k++) {
            out.v[k] += b * d[k];
            across[k] = c * d[k];
        }
        trace = c;
    } else {
        N turned[3];
        apply(x.t, d, turned);
        const N along = inner(x.v, d), twice = inner(turned, d);
        out.s += w[0] * x.said[0] + w[1] * along + w[2] * twice;
        const N to_v = w[3] * x.said[1] + w[4] * along + w[5] * twice;
        const N to_t = w[8] * x.said[2] + w[9] * along + w[10] * twice;
        for (int k = 0; k < 3; k++) {
            out.v[k] += to_v * d[k] + w[6] * x.v[k] + w[7] * turned[k];
            across[k] = to_t * d[k] + w[11] * x.v[k] + w[12] * turned[k];
        }
        trace = inner(across, d);
        for (int k = 0; k < 5; k++) out.t[k] += w[13] * x.t[k];
    }
    const N third = T(1.0 / 3.0) * trace;
    out.t[0] += across[0] * d[0] - third;
    out.t[1] += across[1] * d[1] - third;
    out.t[2] += T(0.5) * (across[0] * d[1] + across[1] * d[0]);
    out.t[3] += T(0.5) * (across[0] * d[2] + across[2] * d[0]);
    out.t[4] += T(0.5) * (across[1] * d[2] + across[2] * d[1]);
}

// From the gradient g in one edge's sums, plain: adds to that in the neighbor x, gives the one in the
// filters, and in d but for its part along d, which a unit vector cannot tell.
template <class T, bool FIRST, class N, class R, class M>
static inline void gradient_of(const R* d, const N* w, const Node<N>& x, const Sums<M>& g, Node<N>& to_x,
                        N* to_w, N* to_d) {
    // q : A is what the matrices' gradient has to say of any A, of which {A}₀ went into them.
    const M third = T(1.0 / 3.0) * (g.t[0] + g.t[1]);
    const M q[5] = {g.t[0] - third, g.t[1] - third, T(0.5) * g.t[2], T(0.5) * g.t[3],
                    T(0.5) * g.t[4]};
    N z[3];
    apply(q, d, z);
    const N of_v = inner(g.v, d), of_t = inner(z, d);  // in what d is multiplied by
    if (FIRST) {
        to_w[0] = g.s * x.said[0];
        to_w[1] = of_v * x.said[1];
        to_w[2] = of_t * x.said[2];
        to_x.said[0] += w[0] * g.s;
        to_x.said[1] += w[1] * of_v;
        to_x.said[2] += w[2] * of_t;
        const N b = w[1] * x.said[1], c = w[2] * x.said[2];
        // Twice: d is on both sides of the matrix.
        for (int k = 0; k < 3; k++) to_d[k] = b * g.v[k] + T(2) * (c * z[k]);
        return;
    }
    N turned[3], across[3], to_turned[3], to_across[3];
    apply(x.t, d, turned);
    const N along = inner(x.v, d), twice = inner(turned, d);
    const N to_v = w[3] * x.said[1] + w[4] * along + w[5] * twice;
    const N to_t = w[8] * x.said[2] + w[9] * along + w[10] * twice;
    to_w[0] = g.s * x.said[0];
    to_w[1] = g.s * along;
    to_w[2] = g.s * twice;
    to_w[3] = of_v * x.said[1];
    to_w[4] = of_v * along;
    to_w[5] = of_v * twice;
    to_w[6] = inner(x.v, g.v);
    to_w[7] = inner(turned, g.v);
    to_w[8] = of_t * x.said[2];
    to_w[9] = of_t * along;
    to_w[10] = of_t * twice;
    to_w[11] = inner(z, x.v);
    to_w[12] = inner(z, turned);
    to_w[13] = g.t[0] * x.t[0] + g.t[1] * x.t[1] + g.t[2] * x.t[2] + g.t[3] * x.t[3] +
               g.t[4] * x.t[4];
    to_x.said[0] += w[0] * g.s;
    to_x.said[1] += w[3] * of_v;
    to_x.said[2] += w[8] * of_t;
    const N to_along = w[1] * g.s + w[4] * of_v + w[9] * of_t;
    const N to_twice = w[2] * g.s + w[5] * of_v + w[10] * of_t;
    for (int k = 0; k < 3; k++) {
        across[k] = to_t * d[k] + w[11] * x.v[k] + w[12] * turned[k];
        to_turned[k] = w[7] * g.v[k] + w[12] * z[k] + to_twice * d[k];
        to_x.v[k] += w[6] * g.v[k] + w[11] * z[k] + to_along * d[k];
    }
    apply(q, across, to_across);
    apply(x.t, to_turned, to_d);
    for (int k = 0; k < 3; k++)
        to_d[k] += to_across[k] + to_t * z[k] + to_v * g.v[k] + to_along * x.v[k] +
                   to_twice * turned[k];
    for (int k = 0; k < 5; k++) to_x.t[k] += w[13] * g.t[k];
    const N last = to_turned[2] * d[2];
    to_x.t[0] += to_turned[0] * d[0] - last;
    to_x.t[1] += to_turned[1] * d[1] - last;
    to_x.t[2] += to_turned[0] * d[1] + to_turned[1] * d[0];
    to_x.t[3] += to_turned[0] * d[2] + to_turned[2] * d[0];
    to_x.t[4] += to_turned[1] * d[2] + to_turned[2] * d[1];
}

// Arrays of atoms, components first; each of them may be of gradients or tangents as well.
template <class T>
struct NodeArrays {
    T *said, *v, *t;
};
template <class T>
struct SumArrays {
    T *s, *v, *t;
};

template <class T, bool FIRST>
static inline void read(const NodeArrays<const T>& from, int64_t size, int64_t at, Node<vec<T>>& out) {
    for (int k = 0; k < 3; k++) out.said[k] = load(from.said + k * size + at);
    if (FIRST) return;
    for (int k = 0; k < 3; k++) out.v[k] = load(from.v + k * size + at);
    for (int k = 0; k < 5; k++) out.t[k] = load(from.t + k * size + at);
}

template <class T, bool FIRST>
static inline void read(const NodeArrays<const T>& from, const NodeArrays<const T>& dots, int64_t size,
                 int64_t at, Node<Dual<vec<T>>>& out) {
    for (int k = 0; k < 3; k++)
        out.said[k] = {load(from.said + k * size + at), load(dots.said + k * size + at)};
    if (FIRST) return;
    for (int k = 0; k < 3; k++)
        out.v[k] = {load(from.v + k * size + at), load(dots.v + k * size + at)};
    for (int k = 0; k < 5; k++)
        out.t[k] = {load(from.t + k * size + at), load(dots.t + k * size + at)};
}

template <class T>
static inline void read(const SumArrays<const T>& from, int64_t size, int64_t at, Sums<vec<T>>& out) {
    out.s = load(from.s + at);
    for (int k = 0; k < 3; k++) out.v[k] = load(from.v + k * size + at);
    for (int k = 0; k < 5; k++) out.t[k] = load(from.t + k * size + at);
}

template <class T, class N>
static inline void write(const SumArrays<T>& to, int64_t size, int64_t at, const Sums<N>& from) {
    store<T>(to.s + at, dot_or_self(from.s));
    for (int k = 0; k < 3; k++) store<T>(to.v + k * size + at, dot_or_self(from.v[k]));
    for (int k = 0; k < 5; k++) store<T>(to.t + k * size + at, dot_or_self(from.t[k]));
}

template <class T, bool FIRST, class N>
static inline void write(const NodeArrays<T>& to, int64_t size, int64_t at, const Node<N>& from) {
    for (int k = 0; k < 3; k++) store<T>(to.said + k * size + at, dot_or_self(from.said[k]));
    if (FIRST) return;
    for (int k = 0; k < 3; k++) store<T>(to.v + k * size + at, dot_or_self(from.v[k]));
    for (int k = 0; k < 5; k++) store<T>(to.t + k * size + at, dot_or_self(from.t[k]));
}

template <class T, int P>
static inline vec<T> combine(const T* weight, const T* row) {
    constexpr int C = P * Simd<T>::LANES;
    return weight[0] * load(row) + weight[1] * load(row + C) + weight[2] * load(row + 2 * C) +
           weight[3] * load(row + 3 * C);
}

// How an edge is met: as it is, from the other end, and with its tangent or without.
template <class T, int P, int SIGN>
static inline void meet(const Edge<T>& e, const T* row, T* d, vec<T>* w) {
    for (int k = 0; k < 3; k++) d[k] = SIGN * e.direction[k];
    for (int k = 0; k < P; k++) w[k] = combine<T, P>(e.weight, row + k * Simd<T>::LANES);
}
template <class T, int P, int SIGN>
static inline void meet(const Edge<T>& e, const Tangent<T>& dot, const T* row, Dual<T>* d,
                 Dual<vec<T>>* w) {
    for (int k = 0; k < 3; k++) d[k] = {SIGN * e.direction[k], SIGN * dot.direction[k]};
    for (int k = 0; k < P; k++) {
        const T* at = row + k * Simd<T>::LANES;
        w[k] = {combine<T, P>(e.weight, at), combine<T, P>(dot.weight, at)};
    }
}

// One chunk of the sums of one atom. `row`: where in the arrays each neighbor's are, or null where atom
// and row are the same; `size` is the distance of two components.
template <class T, bool FIRST>
static inline Sums<vec<T>> sums_of(const Edge<T>* edges, int64_t count, const T* table,
                                   const NodeArrays<const T>& x, const int64_t* row, int64_t size,
                                   int F, int c) {
    constexpr int L = Simd<T>::LANES, P = FIRST ? FIRST_PATHS : PATHS;
    Sums<vec<T>> sum{};
    for (int64_t n = 0; n < count; n++) {
        const Edge<T>& e = edges[n];
        const int64_t j = row ? row[e.neighbor] : e.neighbor;
        T d[3];
        vec<T> w[P];
        Node<vec<T>> node;
        meet<T, P, 1>(e, table + static_cast<ptrdiff_t>(e.knot) * P * L, d, w);
        read<T, FIRST>(x, size, j * F + c * L, node);
        couple<T, FIRST>(d, w, node, sum);
    }
    return sum;
}

// One chunk of the gradient at one atom, from that in the sums of those that hear it; adds to
// g_edges[n] ∂/∂r and ∂/∂û of the edge n. See message.h on why edges stand for their reverse.
template <class T, bool FIRST>
static inline Node<vec<T>> gradients_of(const Edge<T>* edges, int64_t count, const T* table,
                                        const SumArrays<const T>& g, const Node<vec<T>>& node,
                                        int64_t size, int F, int c, T (*g_edges)[4]) {
    constexpr int L = Simd<T>::LANES, P = FIRST ? FIRST_PATHS : PATHS;
    Node<vec<T>> to_node{};
    for (int64_t n = 0; n < count; n++) {
        const Edge<T>& e = edges[n];
        const T* row = table + static_cast<ptrdiff_t>(e.knot) * P * L;
        T d[3];
        vec<T> w[P], to_w[P], to_d[3];
        Sums<vec<T>> from;
        meet<T, P, -1>(e, row, d, w);
        read<T>(g, size, static_cast<int64_t>(e.neighbor) * F + c * L, from);
        gradient_of<T, FIRST>(d, w, node, from, to_node, to_w, to_d);
        vec<T> along{};
        for (int k = 0; k < P; k++) along += to_w[k] * combine<T, P>(e.slope, row + k * L);
        sum4<T>(along, -to_d[0], -to_d[1], -to_d[2], g_edges[n]);
    }
    return to_node;
}

}  // namespace coupling
