// PaiNN as a whole, forward and its gradient with respect to the edges' vectors, weights fixed.
//
// What dynamics, evaluation and UDD need. Neighbors may be atoms of other processes, whose rows lie behind
// the own ones; whoever calls fills them between the steps: φ and vectors on the way there, the gradient on
// the way back. One parallel loop over blocks of atoms a layer: messages
// from the neighbors, the update, and what the atom will say in the next layer, one after the other
// while the block is in cache. Nothing is as long as the list of edges but the edges' own vectors.
#pragma once

#include <algorithm>

#include "message.h"
#include "packed.h"

namespace painn {

// Weights of a layer, packed (simd.h); *_back are the transposed ones for the gradient. The columns of
// context2, and its bias, are in the order of φ (message.h). left and right: the two mixes of vectors.
#define PAINN_LAYER(X)                                                                                   \
    X(context1) X(context1_bias) X(context1_back) X(context2) X(context2_bias) X(context2_back) X(table) \
    X(left) X(left_back) X(right) X(right_back)                                                          \
    X(update1) X(update1_bias) X(update1_back) X(update2) X(update2_bias) X(update2_back)
template <class T>
struct Layer {
    PAINN_LAYER(CONST_ARRAY)
};

// By element: the embedding [elements, F], and φ of the first layer [elements, 3F].
#define PAINN_ELEMENTS(X) X(embedding) X(phi0)
template <class T>
struct Elements {
    PAINN_ELEMENTS(CONST_ARRAY)
};

// What forward leaves behind for the gradient, [atoms, …] each. Those marked * may be null: the
// gradient then works them out again, for systems so large that memory is dearer than time.
//
//     hidden   [F] before the activation of context; not of layer 0
//     phi      [3F] *; not of layer 0, where it depends on the element alone
//     left     [3, F] U
//     right    [3, F] V *
//     pre      [F] before the activation of the update's context
//     scales   [2F] of U·V and of U *
//     vectors  [3, F] leaving the layer
#define PAINN_SAVED(X) X(hidden) X(phi) X(left) X(right) X(pre) X(scales) X(vectors)
template <class T>
struct Saved {
    PAINN_SAVED(ARRAY)
};

// Gradients with respect to what a layer's update takes in, [atoms, F] and [atoms, 3, F]. They may lie
// where that layer's `pre` and `left` are, if these are not needed again.
#define PAINN_GRADIENT(X) X(s) X(v)
template <class T>
struct Gradient {
    PAINN_GRADIENT(ARRAY)
};

template <class T>
struct Network {
    int64_t layers;
    int64_t F;
    const int64_t* species;
    const T *embedding, *phi0;
    const Layer<T>* layer;
    const Saved<T>* saved;
};

static inline int64_t block_size(int64_t atoms, int threads) {
    // Small enough to share out, large enough that the weights are not read for a few rows.
    const int64_t share = (atoms + threads - 1) / threads;
    return std::min<int64_t>(24, std::max<int64_t>(TILE_ROWS, share));
}

template <class T>
struct Scratch {
    Block<T> block;
    Room<T> room;
    std::vector<T> g_edges;
};
template <class T>
Scratch<T>& scratch() {
    static thread_local Scratch<T> own;
    return own;
}

template <class T>
void activate(T* out, const T* in, int64_t count) {
    for (int64_t i = 0; i < count; i += Simd<T>::LANES) store<T>(out + i, silu<T>(load(in + i)));
}
template <class T>
void times_slope(T* gradient, const T* in, int64_t count) {
    for (int64_t i = 0; i < count; i += Simd<T>::LANES)
        store<T>(gradient + i, load(gradient + i) * silu_slope<T>(load(in + i)));
}

// Layer l of a block of atoms, and what they say in the next.
template <class T, int V>
void forward_block(const Graph<T>& graph, const Network<T>& net, int64_t l, int64_t start, int64_t stop,
                   T* scalars) {
    constexpr int L = Simd<T>::LANES, C = V * L;
    const int F = static_cast<int>(net.F);
    const ptrdiff_t table_chunk = static_cast<ptrdiff_t>(graph.intervals + 3) * 3 * C;
    const Layer<T>& w = net.layer[l];
    const Saved<T>& here = net.saved[l];
    const T* v_in = l ? net.saved[l - 1].vectors : nullptr;
    const int n = static_cast<int>(stop - start);
    Scratch<T>& own = scratch<T>();
    own.block.read(graph, start, stop);
    T* v = own.room.take(static_cast<size_t>(n) * F * 12);  // [n, 3, F]
    T* both = v + n * 3 * F;                           // [n, 2F]: s and ‖V‖
    T* context = both + n * 2 * F;                     // [n, 3F]
    T* active = context + n * 3 * F;                   // [n, F]
    T* s = scalars + start * F;

    for (int i = 0; i < n; i++) {
        if (l == 0) std::memcpy(s + i * F, net.embedding + net.species[start + i] * F, F * sizeof(T));
        std::memcpy(both + i * 2 * F, s + i * F, F * sizeof(T));
    }
    if (l == 0)
        std::memset(v, 0, static_cast<size_t>(n) * 3 * F * sizeof(T));
    else
        std::memcpy(v, v_in + start * 3 * F, static_cast<size_t>(n) * 3 * F * sizeof(T));
    for (int c = 0; c < F / C; c++)
        for (int i = 0; i < n; i++) {
            const Edge<T>* edges = own.block.edges.data() + own.block.begin[i];
            const int count = own.block.begin[i + 1] - own.block.begin[i];
            T *to_s = both + i * 2 * F + c * C, *to_v = v + i * 3 * F + c * C;
            if (l == 0)
                messages<T, V, false>(edges, count, net.phi0 + c * 3 * C, net.species,
                                      nullptr, w.table + c * table_chunk, F, to_s, to_v);
            else
                messages<T, V, true>(edges, count, here.phi + c * 3 * C, nullptr,
                                     v_in + c * C, w.table + c * table_chunk, F, to_s, to_v);
        }

    T* left = here.left + start * 3 * F;
    T* right = here.right ? here.right + start * 3 * F : active + n * F;
    matmul<T>(3 * n, F, F, v, F, w.left, left, F, nullptr, Start::zero);
    matmul<T>(3 * n, F, F, v, F, w.right, right, F, nullptr, Start::zero);
    for (int i = 0; i < n; i++)
        for (int f = 0; f < F; f += L) {
            const T* m = right + i * 3 * F + f;
            const vec<T> x = load(m), y = load(m + F), z = load(m + 2 * F);
            store<T>(both + i * 2 * F + F + f,
                     square_root<T>(x * x + y * y + z * z + T(NORM_EPSILON)));
        }
    T* pre = here.pre + start * F;
    matmul<T>(n, F, 2 * F, both, 2 * F, w.update1, pre, F, w.update1_bias, Start::bias);
    activate(active, pre, static_cast<int64_t>(n) * F);
    matmul<T>(n, 3 * F, F, active, F, w.update2, context, 3 * F, w.update2_bias, Start::bias);
    T* v_out = here.vectors + start * 3 * F;
    for (int i = 0; i < n; i++)
        for (int f = 0; f < F; f += L) {
            const T* x = context + i * 3 * F + f;
            const vec<T> scale_product = load(x + F), scale_vectors = load(x + 2 * F);
            if (here.scales) {
                store(here.scales + (start + i) * 2 * F + f, scale_product);
                store(here.scales + (start + i) * 2 * F + F + f, scale_vectors);
            }
            vec<T> product{};
            for (int k = 0; k < 3; k++) {
                const int at = (i * 3 + k) * F + f;
                product += load(left + at) * load(right + at);
                store<T>(v_out + at, load(v + at) + scale_vectors * load(left + at));
            }
            store<T>(s + i * F + f,
                     load(both + i * 2 * F + f) + load(x) + scale_product * product);
        }
    if (l + 1 < net.layers) {
        const Layer<T>& next = net.layer[l + 1];
        const Saved<T>& there = net.saved[l + 1];
        T* hidden = there.hidden + start * F;
        matmul<T>(n, F, F, s, F, next.context1, hidden, F, next.context1_bias, Start::bias);
        activate(active, hidden, static_cast<int64_t>(n) * F);
        matmul<T>(n, 3 * F, F, active, F, next.context2, there.phi + start * 3 * F, 3 * F,
                  next.context2_bias, Start::bias);
    }
}

// Through the update of one block: g_s [n, F] and g_v [n, 3, F] (or null) → to.
template <class T>
void update_gradient(const Layer<T>& w, const Saved<T>& saved, int F, int64_t start, int n,
                     const T* g_s, const T* g_v, const Gradient<T>& to, T* space) {
    constexpr int L = Simd<T>::LANES;
    T* context = space;               // [n, 3F]
    T* hidden = context + n * 3 * F;  // [n, F]
    T* both = hidden + n * F;         // [n, 2F]
    T* g_left = both + n * 2 * F;     // [n, 3, F]
    T* g_right = g_left + n * 3 * F;  // [n, 3, F]
    const T *left = saved.left + start * 3 * F, *pre = saved.pre + start * F;
    const T *right, *scales;
    if (saved.right) {
        right = saved.right + start * 3 * F;
        scales = saved.scales + start * 2 * F;
    } else {
        T* again = g_right + n * 3 * F;       // [n, 3, F]
        T* two = again + n * 3 * F;           // [n, 2F]
        const T* v_out = saved.vectors + start * 3 * F;
        activate(hidden, pre, static_cast<int64_t>(n) * F);
        matmul<T>(n, 3 * F, F, hidden, F, w.update2, context, 3 * F, w.update2_bias, Start::bias);
        for (int i = 0; i < n; i++) {
            std::memcpy(two + i * 2 * F, context + i * 3 * F + F, 2 * F * sizeof(T));
            for (int k = 0; k < 3; k++)
                for (int f = 0; f < F; f += L) {
                    const int at = (i * 3 + k) * F + f;
                    store<T>(g_left + at,
                             load(v_out + at) - load(two + i * 2 * F + F + f) * load(left + at));
                }
        }
        matmul<T>(3 * n, F, F, g_left, F, w.right, again, F, nullptr, Start::zero);
        right = again;
        scales = two;
    }
    for (int i = 0; i < n; i++)
        for (int f = 0; f < F; f += L) {
            const vec<T> gs = load(g_s + i * F + f);
            vec<T> product{}, along{};
            for (int k = 0; k < 3; k++) {
                const int at = (i * 3 + k) * F + f;
                product += load(left + at) * load(right + at);
                if (g_v) along += load(left + at) * load(g_v + at);
            }
            T* c = context + i * 3 * F + f;
            store(c, gs);
            store<T>(c + F, gs * product);
            store(c + 2 * F, along);
        }
    matmul<T>(n, F, 3 * F, context, 3 * F, w.update2_back, hidden, F, nullptr, Start::zero);
    times_slope(hidden, pre, static_cast<int64_t>(n) * F);
    matmul<T>(n, 2 * F, F, hidden, F, w.update1_back, both, 2 * F, nullptr, Start::zero);
    T *to_s = to.s + start * F, *to_v = to.v + start * 3 * F;
    for (int i = 0; i < n; i++)
        for (int f = 0; f < F; f += L) {
            const T* x = scales + i * 2 * F + f;
            const vec<T> gs = load(g_s + i * F + f);
            const vec<T> g_product = gs * load(x), scale_vectors = load(x + F);
            vec<T> squares{};
            for (int k = 0; k < 3; k++) {
                const vec<T> r = load(right + (i * 3 + k) * F + f);
                squares += r * r;
            }
            const vec<T> g_norm = load(both + i * 2 * F + F + f) /
                                  square_root<T>(squares + T(NORM_EPSILON));
            for (int k = 0; k < 3; k++) {
                const int at = (i * 3 + k) * F + f;
                const vec<T> l = load(left + at), r = load(right + at);
                const vec<T> gv = g_v ? load(g_v + at) : vec<T>{};
                store<T>(g_left + at, g_product * r + scale_vectors * gv);
                store<T>(g_right + at, g_product * l + g_norm * r);
                store(to_v + at, gv);
            }
            store<T>(to_s + i * F + f, gs + load(both + i * 2 * F + f));
        }
    matmul<T>(3 * n, F, F, g_left, F, w.left_back, to_v, F, nullptr, Start::add);
    matmul<T>(3 * n, F, F, g_right, F, w.right_back, to_v, F, nullptr, Start::add);
}

constexpr int UPDATE_SPACE = 17;  // times n F

// The gradient in what the last layer gives, through its update; g_atoms may be null.
template <class T>
void begin_back(const Network<T>& net, int64_t start, int64_t stop, const T* g_scalars,
                const T* g_atoms, const Gradient<T>* gradient) {
    const int F = static_cast<int>(net.F), n = static_cast<int>(stop - start);
    const int64_t last = net.layers - 1;
    T* space = scratch<T>().room.take(static_cast<size_t>(n) * F * UPDATE_SPACE);
    update_gradient(net.layer[last], net.saved[last], F, start, n, g_scalars + start * F,
                    g_atoms ? g_atoms + start * 3 * F : nullptr, gradient[last], space);
}

// Back through the messages of layer l, from the gradient at all neighbors, and through the update before;
// adds to g_vectors [edges, 3].
template <class T, int V>
void back_block(const Graph<T>& graph, const Network<T>& net, int64_t l, int64_t start, int64_t stop,
                const Gradient<T>* gradient, T* g_vectors) {
    constexpr int L = Simd<T>::LANES, C = V * L;
    const int F = static_cast<int>(net.F);
    const ptrdiff_t table_chunk = static_cast<ptrdiff_t>(graph.intervals + 3) * 3 * C;
    const Layer<T>& w = net.layer[l];
    const Saved<T>& here = net.saved[l];
    const T *g_s = gradient[l].s, *g_v = gradient[l].v;
    const T* v_in = l ? net.saved[l - 1].vectors : nullptr;
    const int n = static_cast<int>(stop - start);
    Scratch<T>& own = scratch<T>();
    own.block.read(graph, start, stop);
    own.g_edges.assign(own.block.begin[n] * 4, T(0));
    auto* g_edges = reinterpret_cast<T(*)[4]>(own.g_edges.data());
    T* to_phi = own.room.take(static_cast<size_t>(n) * F * (10 + UPDATE_SPACE));  // [n, 3F]
    T* to_s = to_phi + n * 3 * F;                                            // [n, F]
    T* to_v = to_s + n * F;                                                  // [n, 3, F]
    T* again = to_v + n * 3 * F;                                             // [n, 3F]
    T* space = again + n * 3 * F;
    const T* phi = here.phi ? here.phi + start * 3 * F : again;
    if (l) {
        std::memcpy(to_s, g_s + start * F, static_cast<size_t>(n) * F * sizeof(T));
        std::memcpy(to_v, g_v + start * 3 * F, static_cast<size_t>(n) * 3 * F * sizeof(T));
        if (!here.phi) {
            activate(space, here.hidden + start * F, static_cast<int64_t>(n) * F);
            matmul<T>(n, 3 * F, F, space, F, w.context2, again, 3 * F, w.context2_bias,
                      Start::bias);
        }
    }
    for (int c = 0; c < F / C; c++)
        for (int i = 0; i < n; i++) {
            const int begin = own.block.begin[i], count = own.block.begin[i + 1] - begin;
            const Edge<T>* edges = own.block.edges.data() + begin;
            const T* table = w.table + c * table_chunk;
            if (l == 0)
                message_gradients<T, V, false>(
                    edges, count, g_s + c * C, g_v + c * C,
                    net.phi0 + net.species[start + i] * 3 * F + c * 3 * C, nullptr, table,
                    F, nullptr, nullptr, g_edges + begin);
            else
                message_gradients<T, V, true>(
                    edges, count, g_s + c * C, g_v + c * C, phi + i * 3 * F + c * 3 * C,
                    v_in + (start + i) * 3 * F + c * C, table, F,
                    to_phi + i * 3 * F + c * 3 * C, to_v + i * 3 * F + c * C,
                    g_edges + begin);
        }
    for (int e = 0; e < own.block.begin[n]; e++) {
        const Edge<T>& edge = own.block.edges[e];
        add_to_vector(edge, g_edges[e], g_vectors + 3 * edge.slot);
    }
    if (l == 0) return;
    T* hidden = space;
    matmul<T>(n, F, 3 * F, to_phi, 3 * F, w.context2_back, hidden, F, nullptr, Start::zero);
    times_slope(hidden, here.hidden + start * F, static_cast<int64_t>(n) * F);
    matmul<T>(n, F, F, hidden, F, w.context1_back, to_s, F, nullptr, Start::add);
    update_gradient(net.layer[l - 1], net.saved[l - 1], F, start, n, to_s, to_v,
                    gradient[l - 1], space);
}

}  // namespace painn
