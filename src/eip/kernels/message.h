// The sums over neighbors of PaiNN's message (eq. 7 and 8 of its paper) and of its gradient.
//
//     s_i += Σ_j a_j ∘ Wa(r)        v_i += Σ_j b_j ∘ Wb(r) û + c_j ∘ Wc(r) ∘ v_j
//
// (a, b, c)_j = φ_j is what atom j says, û points from i to j. The list of neighbors is full, so the
// gradient is a sum over neighbors too, and no thread ever writes to another's atom. Channels go by
// chunks of V vectors, which is how tables and φ are laid out: what a chunk reads stays in cache.
//
//     table [chunks, knots, 3, chunk]     φ [atoms, chunks, 3, chunk]     v [atoms, 3, F]
#pragma once

#include "tangent.h"

// One chunk of the messages to one atom. s [chunk] and v_out [3, F] of this atom are added to.
// `row`: where in φ each atom's row is, or null where atom and row are the same.
template <class T, int V, bool VECTORS>
static inline void messages(const Edge<T>* edges, int count, const T* phi, const int64_t* row,
                            const T* v, const T* table, int F, T* s, T* v_out) {
    constexpr int L = Simd<T>::LANES, C = V * L;
    vec<T> sum_s[V], sum_v[3][V];
    for (int u = 0; u < V; u++) {
        sum_s[u] = load(s + u * L);
        for (int k = 0; k < 3; k++) sum_v[k][u] = load(v_out + k * F + u * L);
    }
    for (int n = 0; n < count; n++) {
        const Edge<T>& e = edges[n];
        const int64_t j = e.neighbor;
        const T* p = phi + (row ? row[j] : j) * 3 * F;
        const T* t = table + static_cast<ptrdiff_t>(e.knot) * 3 * C;
        for (int u = 0; u < V; u++) {
            vec<T> w[3];
            for (int part = 0; part < (VECTORS ? 3 : 2); part++) {
                const T* q = t + part * C + u * L;
                w[part] = e.weight[0] * load(q) + e.weight[1] * load(q + 3 * C) +
                          e.weight[2] * load(q + 6 * C) + e.weight[3] * load(q + 9 * C);
                w[part] *= load(p + part * C + u * L);
            }
            sum_s[u] += w[0];
            for (int k = 0; k < 3; k++) {
                sum_v[k][u] += e.direction[k] * w[1];
                if (VECTORS) sum_v[k][u] += w[2] * load(v + j * 3 * F + k * F + u * L);
            }
        }
    }
    for (int u = 0; u < V; u++) {
        store(s + u * L, sum_s[u]);
        for (int k = 0; k < 3; k++) store(v_out + k * F + u * L, sum_v[k][u]);
    }
}

// One chunk of the gradient at one atom j, from the gradients ∂s [atoms, F] and ∂v [atoms, 3, F] of
// the atoms i that hear it. The message i ← j belongs to the edge from i to j, of which only the
// reverse is at hand: û changes sign, and its gradient is filed under the reverse with the sign
// changed, which the gradient of positions and strain cannot tell.
//
// to_phi [3, chunk] is overwritten, to_v [3, F] is added to; g_edges[n] += ∂/∂r, ∂/∂û of edge n.
template <class T, int V, bool VECTORS>
static inline void message_gradients(const Edge<T>* edges, int count, const T* g_s, const T* g_v,
                                     const T* phi_own, const T* v_own, const T* table, int F,
                                     T* to_phi, T* to_v, T (*g_edges)[4]) {
    constexpr int L = Simd<T>::LANES, C = V * L;
    vec<T> to_a[V], to_b[V], gathered[3][V];
    for (int u = 0; u < V; u++) {
        to_a[u] = to_b[u] = vec<T>{};
        for (int k = 0; k < 3; k++) gathered[k][u] = vec<T>{};
    }
    for (int n = 0; n < count; n++) {
        const Edge<T>& e = edges[n];
        const int64_t i = e.neighbor;
        const T* t = table + static_cast<ptrdiff_t>(e.knot) * 3 * C;
        vec<T> along_r{}, along_u[3] = {};
        for (int u = 0; u < V; u++) {
            vec<T> w[3], d[3];
            for (int part = 0; part < (VECTORS ? 3 : 2); part++) {
                const T* q = t + part * C + u * L;
                const vec<T> t0 = load(q), t1 = load(q + 3 * C), t2 = load(q + 6 * C),
                             t3 = load(q + 9 * C);
                w[part] = e.weight[0] * t0 + e.weight[1] * t1 + e.weight[2] * t2 + e.weight[3] * t3;
                d[part] = e.slope[0] * t0 + e.slope[1] * t1 + e.slope[2] * t2 + e.slope[3] * t3;
            }
            const vec<T> gs = load(g_s + i * F + u * L);
            vec<T> gv[3];
            for (int k = 0; k < 3; k++) gv[k] = load(g_v + (i * 3 + k) * F + u * L);
            const vec<T> toward =
                -(e.direction[0] * gv[0] + e.direction[1] * gv[1] + e.direction[2] * gv[2]);
            const vec<T> a = load(phi_own + u * L), b = load(phi_own + C + u * L);
            along_r += a * gs * d[0] + b * toward * d[1];
            const vec<T> bw = b * w[1];
            for (int k = 0; k < 3; k++) along_u[k] -= bw * gv[k];
            if (VECTORS) {
                to_a[u] += w[0] * gs;
                to_b[u] += w[1] * toward;
                const vec<T> c = load(phi_own + 2 * C + u * L);
                vec<T> overlap = gv[0] * load(v_own + u * L);
                for (int k = 1; k < 3; k++) overlap += gv[k] * load(v_own + k * F + u * L);
                along_r += c * overlap * d[2];
                for (int k = 0; k < 3; k++) gathered[k][u] += w[2] * gv[k];
            }
        }
        sum4<T>(along_r, along_u[0], along_u[1], along_u[2], g_edges[n]);
    }
    if (!VECTORS) return;
    for (int u = 0; u < V; u++) {
        const vec<T> c = load(phi_own + 2 * C + u * L);
        vec<T> to_c{};
        for (int k = 0; k < 3; k++) {
            to_c += gathered[k][u] * load(v_own + k * F + u * L);
            T* out = to_v + k * F + u * L;
            store(out, load(out) + c * gathered[k][u]);
        }
        store(to_phi + u * L, to_a[u]);
        store(to_phi + C + u * L, to_b[u]);
        store(to_phi + 2 * C + u * L, to_c);
    }
}
