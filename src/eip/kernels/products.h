// All products of up to three factors of a scalar x, a vector u and a symmetric traceless matrix M, with
// weights by element and channel (`eip.kernels.products`), the gradient, and the gradient of that.
//
// Written once, for numbers and for dual numbers, as in coupling.cpp. Every atom and channel is by itself.
//
//     x [atoms, F]    u [3, atoms, F]    m [5, atoms, F]: xx, yy, xy, xz, yz    weights [elements, 27, F]
#pragma once

#include "dual.h"
#include "simd.h"

namespace products {

constexpr int PRODUCTS = 27;

template <class N>
struct Triple {
    N x, u[3], m[5];
};

// What weights are multiplied by, as far as several need it.
template <class T, class N>
struct Parts {
    N zz, p[3], r[3], square[6], uu, mm, up, mmm;

    explicit Parts(const Triple<N>& a) {
        const N* m = a.m;
        zz = -(m[0] + m[1]);
        apply(a.m, a.u, p);
        apply(a.m, p, r);
        square[0] = m[0] * m[0] + m[2] * m[2] + m[3] * m[3];
        square[1] = m[2] * m[2] + m[1] * m[1] + m[4] * m[4];
        square[2] = m[2] * (m[0] + m[1]) + m[3] * m[4];
        square[3] = m[2] * m[4] - m[3] * m[1];
        square[4] = m[2] * m[3] - m[4] * m[0];
        square[5] = m[3] * m[3] + m[4] * m[4] + zz * zz;
        uu = a.u[0] * a.u[0] + a.u[1] * a.u[1] + a.u[2] * a.u[2];
        up = a.u[0] * p[0] + a.u[1] * p[1] + a.u[2] * p[2];
        mm = square[0] + square[1] + square[5];
        mmm = square[0] * m[0] + square[1] * m[1] + square[5] * zz +
              T(2) * (square[2] * m[2] + square[3] * m[3] + square[4] * m[4]);
    }

    // A b for a symmetric traceless A.
    template <class A, class B, class C>
    static void apply(const A* a, const B* b, C* out) {
        out[0] = a[0] * b[0] + a[2] * b[1] + a[3] * b[2];
        out[1] = a[2] * b[0] + a[1] * b[1] + a[4] * b[2];
        out[2] = a[3] * b[0] + a[4] * b[1] - (a[0] + a[1]) * b[2];
    }
};

template <class T, class N>
static inline Triple<N> values_of(const Triple<N>& a, const vec<T>* c) {
    const Parts<T, N> k(a);
    const N &x = a.x, xx = x * x;
    Triple<N> out;
    out.x = x * c[0] + xx * c[1] + k.uu * c[2] + k.mm * c[3] + k.up * c[7] + k.mmm * c[8] +
            x * (xx * c[4] + k.uu * c[5] + k.mm * c[6]);
    // x has no part without a factor: weights are plain, and so are added where they stand alone.
    const N of_u = x * c[10] + xx * c[12] + k.uu * c[13] + k.mm * c[14];
    const N of_p = x * c[15];
    for (int i = 0; i < 3; i++)
        out.u[i] = a.u[i] * c[9] + of_u * a.u[i] + k.p[i] * c[11] + of_p * k.p[i] + k.r[i] * c[16];
    const N of_m = x * c[18] + xx * c[21] + k.uu * c[24] + k.mm * c[25];
    const N of_uu = x * c[22], of_square = x * c[23];
    for (int i = 0; i < 5; i++)
        out.m[i] = a.m[i] * c[17] + of_m * a.m[i] + k.square[i] * c[20] + of_square * k.square[i];
    // u uᵀ and u pᵀ have one factor in common.
    N b[3];
    for (int i = 0; i < 3; i++) b[i] = a.u[i] * c[19] + of_uu * a.u[i] + k.p[i] * c[26];
    const N third = T(1.0 / 3.0) * (b[0] * a.u[0] + b[1] * a.u[1] + b[2] * a.u[2] +
                                    k.mm * c[20] + of_square * k.mm);
    out.m[0] += b[0] * a.u[0] - third;
    out.m[1] += b[1] * a.u[1] - third;
    out.m[2] += T(0.5) * (b[0] * a.u[1] + b[1] * a.u[0]);
    out.m[3] += T(0.5) * (b[0] * a.u[2] + b[2] * a.u[0]);
    out.m[4] += T(0.5) * (b[1] * a.u[2] + b[2] * a.u[1]);
    return out;
}

// From the gradient g in the products, plain: the one in x, u, m, and in the weights.
template <class T, class N>
static inline Triple<N> gradient_of(const Triple<N>& a, const vec<T>* c, const Triple<vec<T>>& g, N* to_c) {
    typedef vec<T> M;
    const Parts<T, N> k(a);
    const N &x = a.x, xx = x * x;
    // q : A is what the matrices' gradient has to say of any A, of which the traceless part was taken.
    const M third = T(1.0 / 3.0) * (g.m[0] + g.m[1]);
    const M q[5] = {g.m[0] - third, g.m[1] - third, T(0.5) * g.m[2], T(0.5) * g.m[3],
                    T(0.5) * g.m[4]};
    const M qzz = -(q[0] + q[1]);
    N qu[3], qp[3];
    Parts<T, N>::apply(q, a.u, qu);
    Parts<T, N>::apply(q, k.p, qp);
    const N gu = g.u[0] * a.u[0] + g.u[1] * a.u[1] + g.u[2] * a.u[2];
    const N gp = g.u[0] * k.p[0] + g.u[1] * k.p[1] + g.u[2] * k.p[2];
    const N gr = g.u[0] * k.r[0] + g.u[1] * k.r[1] + g.u[2] * k.r[2];
    const N qm = g.m[0] * a.m[0] + g.m[1] * a.m[1] + g.m[2] * a.m[2] + g.m[3] * a.m[3] +
                 g.m[4] * a.m[4];
    const N quu = qu[0] * a.u[0] + qu[1] * a.u[1] + qu[2] * a.u[2];
    const N qpu = qu[0] * k.p[0] + qu[1] * k.p[1] + qu[2] * k.p[2];
    const N qsquare = q[0] * k.square[0] + q[1] * k.square[1] + qzz * k.square[5] +
                      g.m[2] * k.square[2] + g.m[3] * k.square[3] + g.m[4] * k.square[4];
    to_c[0] = g.x * x;
    to_c[1] = g.x * xx;
    to_c[2] = g.x * k.uu;
    to_c[3] = g.x * k.mm;
    to_c[4] = g.x * (xx * x);
    to_c[5] = g.x * (x * k.uu);
    to_c[6] = g.x * (x * k.mm);
    to_c[7] = g.x * k.up;
    to_c[8] = g.x * k.mmm;
    to_c[9] = gu;
    to_c[10] = x * gu;
    to_c[11] = gp;
    to_c[12] = xx * gu;
    to_c[13] = k.uu * gu;
    to_c[14] = k.mm * gu;
    to_c[15] = x * gp;
    to_c[16] = gr;
    to_c[17] = qm;
    to_c[18] = x * qm;
    to_c[19] = quu;
    to_c[20] = qsquare;
    to_c[21] = xx * qm;
    to_c[22] = x * quu;
    to_c[23] = x * qsquare;
    to_c[24] = k.uu * qm;
    to_c[25] = k.mm * qm;
    to_c[26] = qpu;

    Triple<N> to;
    const M first = g.x * c[0], second = T(2) * g.x * c[1], cubic = T(3) * g.x * c[4];
    to.x = x * second + xx * cubic + k.uu * (g.x * c[5]) + k.mm * (g.x * c[6]) + gu * c[10] +
           T(2) * (x * gu) * c[12] + gp * c[15] + qm * c[18] + T(2) * (x * qm) * c[21] +
           quu * c[22] + qsquare * c[23];
    add_plain(to.x, first);
    // In ‖u‖² and M:M, twice.
    N to_uu = x * (T(2) * g.x * c[5]) + T(2) * gu * c[13] + T(2) * qm * c[24];
    add_plain(to_uu, T(2) * g.x * c[2]);
    N to_mm = x * (T(2) * g.x * c[6]) + T(2) * gu * c[14] + T(2) * qm * c[25];
    add_plain(to_mm, T(2) * g.x * c[3]);
    const M to_up = g.x * c[7], to_mmm = T(3) * g.x * c[8];
    // In what u, p and M are multiplied by, without the part that is plain.
    const N of_u = x * c[10] + xx * c[12] + k.uu * c[13] + k.mm * c[14];
    const N of_p = x * c[15], of_uu = x * (T(2) * c[22]), of_square = x * c[23];
    const N of_m = x * c[18] + xx * c[21] + k.uu * c[24] + k.mm * c[25];
    N to_p[3], back[3];
    M to_r[3];
    for (int i = 0; i < 3; i++) to_r[i] = g.u[i] * c[16];
    Parts<T, N>::apply(a.m, to_r, to_p);
    for (int i = 0; i < 3; i++) {
        to_p[i] += of_p * g.u[i] + a.u[i] * to_up + qu[i] * c[26];
        add_plain(to_p[i], g.u[i] * c[11]);
    }
    Parts<T, N>::apply(a.m, to_p, back);
    for (int i = 0; i < 3; i++) {
        to.u[i] = back[i] + of_u * g.u[i] + to_uu * a.u[i] + k.p[i] * to_up +
                  qu[i] * (T(2) * c[19]) + of_uu * qu[i] + qp[i] * c[26];
        add_plain(to.u[i], g.u[i] * c[9]);
    }
    // Of the symmetric matrices, xx, yy, xy, xz, yz, zz; the dyads' are symmetrized.
    const N* m = a.m;
    const N full[6] = {m[0], m[1], m[2], m[3], m[4], k.zz};
    const M qfull[6] = {q[0], q[1], q[2], q[3], q[4], qzz};
    static constexpr int ROW[6] = {0, 1, 0, 0, 1, 2}, COLUMN[6] = {0, 1, 1, 2, 2, 2};
    static constexpr int AT[3][3] = {{0, 2, 3}, {2, 1, 4}, {3, 4, 5}};
    N matrix[6];
    for (int e = 0; e < 6; e++) {
        const int i = ROW[e], j = COLUMN[e];
        // {q, M}, whose product with a change of M is that of q with the change of M².
        N both = qfull[AT[i][0]] * full[AT[0][j]] + qfull[AT[i][1]] * full[AT[1][j]] +
                 qfull[AT[i][2]] * full[AT[2][j]] + full[AT[i][0]] * qfull[AT[0][j]] +
                 full[AT[i][1]] * qfull[AT[1][j]] + full[AT[i][2]] * qfull[AT[2][j]];
        matrix[e] = both * c[20] + of_square * both + of_m * qfull[e] + to_mm * full[e] +
                    k.square[e] * to_mmm +
                    T(0.5) * (to_p[i] * a.u[j] + to_p[j] * a.u[i] + k.p[j] * to_r[i] +
                              k.p[i] * to_r[j]);
        add_plain(matrix[e], qfull[e] * c[17]);
    }
    to.m[0] = matrix[0] - matrix[5];
    to.m[1] = matrix[1] - matrix[5];
    for (int e = 2; e < 5; e++) to.m[e] = T(2) * matrix[e];
    return to;
}

// 1/√a.
template <class T>
static inline vec<T> inverse_root(const vec<T>& a) {
    return T(1) / square_root<T>(a);
}
template <class T>
static inline Dual<vec<T>> inverse_root(const Dual<vec<T>>& a) {
    const vec<T> root = inverse_root<T>(a.value);
    return {root, T(-0.5) * (root * root * root) * a.dot};
}

// Products are of what is bounded: a · factor, factor = 1/√(1 + ‖a‖²/limit²). Far from all data, powers
// of what is large would else be larger than anything that is learned.
template <class T, class N>
struct Bounded {
    Triple<N> value;
    N factor;

    Bounded(const Triple<N>& a, T inverse_square) {
        const N sum = a.m[0] + a.m[1];
        N size = a.x * a.x + a.u[0] * a.u[0] + a.u[1] * a.u[1] + a.u[2] * a.u[2] +
                 a.m[0] * a.m[0] + a.m[1] * a.m[1] + sum * sum +
                 T(2) * (a.m[2] * a.m[2] + a.m[3] * a.m[3] + a.m[4] * a.m[4]);
        size = inverse_square * size;
        add_plain(size, vec<T>{} + T(1));
        factor = inverse_root<T>(size);
        value.x = factor * a.x;
        for (int k = 0; k < 3; k++) value.u[k] = factor * a.u[k];
        for (int k = 0; k < 5; k++) value.m[k] = factor * a.m[k];
    }

    // The gradient in a, from g in the bounded value.
    Triple<N> back(const Triple<N>& a, const Triple<N>& g, T inverse_square) const {
        N inner = g.x * a.x;
        for (int k = 0; k < 3; k++) inner += g.u[k] * a.u[k];
        for (int k = 0; k < 5; k++) inner += g.m[k] * a.m[k];
        const N along = -inverse_square * (factor * factor * factor * inner);
        Triple<N> to;
        to.x = factor * g.x + along * a.x;
        for (int k = 0; k < 3; k++) to.u[k] = factor * g.u[k] + along * a.u[k];
        to.m[0] = factor * g.m[0] + along * (T(2) * a.m[0] + a.m[1]);
        to.m[1] = factor * g.m[1] + along * (T(2) * a.m[1] + a.m[0]);
        for (int k = 2; k < 5; k++) to.m[k] = factor * g.m[k] + T(2) * (along * a.m[k]);
        return to;
    }
};

template <class T, class N>
static inline Triple<N> bounded_values(const Triple<N>& a, const vec<T>* c, T inverse_square) {
    return values_of<T>(Bounded<T, N>(a, inverse_square).value, c);
}
template <class T, class N>
static inline Triple<N> bounded_gradient(const Triple<N>& a, const vec<T>* c, const Triple<vec<T>>& g,
                                         T inverse_square, N* to_c) {
    const Bounded<T, N> bounded(a, inverse_square);
    return bounded.back(a, gradient_of<T>(bounded.value, c, g, to_c), inverse_square);
}

template <class T>
struct Arrays {
    T *x, *u, *m;
};

template <class T>
static inline void read(const Arrays<const T>& from, const Arrays<const T>&, int64_t size, int64_t at,
                 Triple<vec<T>>& out) {
    out.x = load(from.x + at);
    for (int k = 0; k < 3; k++) out.u[k] = load(from.u + k * size + at);
    for (int k = 0; k < 5; k++) out.m[k] = load(from.m + k * size + at);
}
template <class T>
static inline void read(const Arrays<const T>& from, const Arrays<const T>& dots, int64_t size, int64_t at,
                 Triple<Dual<vec<T>>>& out) {
    out.x = {load(from.x + at), load(dots.x + at)};
    for (int k = 0; k < 3; k++)
        out.u[k] = {load(from.u + k * size + at), load(dots.u + k * size + at)};
    for (int k = 0; k < 5; k++)
        out.m[k] = {load(from.m + k * size + at), load(dots.m + k * size + at)};
}
template <class T, class N>
static inline void write(const Arrays<T>& to, int64_t size, int64_t at, const Triple<N>& from) {
    store<T>(to.x + at, dot_or_self(from.x));
    for (int k = 0; k < 3; k++) store<T>(to.u + k * size + at, dot_or_self(from.u[k]));
    for (int k = 0; k < 5; k++) store<T>(to.m + k * size + at, dot_or_self(from.m[k]));
}

}  // namespace products
