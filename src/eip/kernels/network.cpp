// PaiNN as a whole, forward and its gradient with respect to the edges' vectors, weights fixed.
//
// What dynamics, evaluation and UDD need. One parallel loop over blocks of atoms a layer: messages
// from the neighbors, the update, and what the atom will say in the next layer, one after the other
// while the block is in cache. Nothing is as long as the list of edges but the edges' own vectors.
#include <omp.h>

#include <algorithm>

#include "message.h"

namespace {

// Weights of a layer, packed (simd.h); *_t are the transposed ones for the gradient. The columns of
// context2, and its bias, are in the order of φ (message.h).
template <class T>
struct Layer {
    const T *context1, *context1_bias, *context1_t, *context2, *context2_bias, *context2_t;
    const T *table;
    const T *mix, *mix_t;
    const T *update1, *update1_bias, *update1_t, *update2, *update2_bias, *update2_t;
};

// What forward leaves behind for the gradient, [atoms, …] each.
template <class T>
struct Saved {
    T *hidden;   // [F] before the activation of context; not of layer 0
    T *phi;      // [3F]; not of layer 0, where it depends on the element alone
    T *mixed;    // [3, 2F] U and V
    T *pre;      // [F] before the activation of the update's context
    T *scales;   // [2F] of U·V and of U
    T *vectors;  // [3, F] leaving the layer
};

template <class T>
struct Network {
    int64_t layers;
    int64_t F;
    const int64_t* species;
    const T* embedding;  // [elements, F]
    const T* phi0;       // [elements, 3F]
    const Layer<T>* layer;
    const Saved<T>* saved;
};

constexpr double NORM_EPSILON = 1e-8;  // as in backbone.py

int64_t block_size(int64_t atoms, int threads) {
    // Small enough to share out, large enough that the weights are not read for a few rows.
    const int64_t share = (atoms + threads - 1) / threads;
    return std::min<int64_t>(24, std::max<int64_t>(TILE_ROWS, share));
}

template <class T>
struct Scratch {
    Block<T> block;
    std::vector<T> memory;
    std::vector<T> g_edges;
    T* take(size_t count) {
        if (memory.size() < count) memory.resize(count);
        return memory.data();
    }
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

template <class T, int V>
void forward(const Graph<T>& graph, const Network<T>& net, T* scalars, int threads) {
    constexpr int L = Simd<T>::LANES, C = V * L;
    const int F = static_cast<int>(net.F);
    const int64_t size = block_size(graph.atoms, threads), blocks = (graph.atoms + size - 1) / size;
    const ptrdiff_t table_chunk = static_cast<ptrdiff_t>(graph.intervals + 3) * 3 * C;
    for (int64_t l = 0; l < net.layers; l++) {
        const Layer<T>& w = net.layer[l];
        const Saved<T>& here = net.saved[l];
        const T* v_in = l ? net.saved[l - 1].vectors : nullptr;
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
        for (int64_t block = 0; block < blocks; block++) {
            const int64_t start = block * size, stop = std::min(graph.atoms, start + size);
            const int n = static_cast<int>(stop - start);
            Scratch<T>& own = scratch<T>();
            own.block.read(graph, start, stop);
            T* v = own.take(static_cast<size_t>(n) * F * 9);  // [n, 3, F]
            T* both = v + n * 3 * F;                          // [n, 2F]: s and ‖V‖
            T* context = both + n * 2 * F;                    // [n, 3F]
            T* active = context + n * 3 * F;                  // [n, F]
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

            T* mixed = here.mixed + start * 6 * F;
            matmul<T>(3 * n, 2 * F, F, v, F, w.mix, mixed, 2 * F, nullptr, Start::zero);
            for (int i = 0; i < n; i++)
                for (int f = 0; f < F; f += L) {
                    const T* m = mixed + i * 6 * F + F + f;
                    const vec<T> x = load(m), y = load(m + 2 * F), z = load(m + 4 * F);
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
                    const T *m = mixed + i * 6 * F + f, *x = context + i * 3 * F + f;
                    const vec<T> scale_product = load(x + F), scale_vectors = load(x + 2 * F);
                    store(here.scales + (start + i) * 2 * F + f, scale_product);
                    store(here.scales + (start + i) * 2 * F + F + f, scale_vectors);
                    vec<T> product{};
                    for (int k = 0; k < 3; k++) {
                        const vec<T> left = load(m + k * 2 * F);
                        product += left * load(m + k * 2 * F + F);
                        store<T>(v_out + (i * 3 + k) * F + f,
                                 load(v + (i * 3 + k) * F + f) + scale_vectors * left);
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
    }
}

// Through the update of one block: g_s [n, F] and g_v [n, 3, F] (or null) → g [n, 4, F].
template <class T>
void update_gradient(const Layer<T>& w, const Saved<T>& saved, int F, int64_t start, int n,
                     const T* g_s, const T* g_v, T* g, T* space) {
    constexpr int L = Simd<T>::LANES;
    T* context = space;              // [n, 3F]
    T* hidden = context + n * 3 * F;  // [n, F]
    T* both = hidden + n * F;         // [n, 2F]
    T* to_mixed = both + n * 2 * F;   // [n, 3, 2F]
    const T* mixed = saved.mixed + start * 6 * F;
    const T* scales = saved.scales + start * 2 * F;
    for (int i = 0; i < n; i++)
        for (int f = 0; f < F; f += L) {
            const T* m = mixed + i * 6 * F + f;
            const vec<T> gs = load(g_s + i * F + f);
            vec<T> product{}, along{};
            for (int k = 0; k < 3; k++) {
                const vec<T> left = load(m + k * 2 * F);
                product += left * load(m + k * 2 * F + F);
                if (g_v) along += left * load(g_v + (i * 3 + k) * F + f);
            }
            T* c = context + i * 3 * F + f;
            store(c, gs);
            store<T>(c + F, gs * product);
            store(c + 2 * F, along);
        }
    matmul<T>(n, F, 3 * F, context, 3 * F, w.update2_t, hidden, F, nullptr, Start::zero);
    times_slope(hidden, saved.pre + start * F, static_cast<int64_t>(n) * F);
    matmul<T>(n, 2 * F, F, hidden, F, w.update1_t, both, 2 * F, nullptr, Start::zero);
    for (int i = 0; i < n; i++)
        for (int f = 0; f < F; f += L) {
            const T *m = mixed + i * 6 * F + f, *x = scales + i * 2 * F + f;
            const vec<T> gs = load(g_s + i * F + f);
            const vec<T> g_product = gs * load(x), scale_vectors = load(x + F);
            vec<T> left[3], right[3], squares{};
            for (int k = 0; k < 3; k++) {
                left[k] = load(m + k * 2 * F);
                right[k] = load(m + k * 2 * F + F);
                squares += right[k] * right[k];
            }
            const vec<T> g_norm = load(both + i * 2 * F + F + f) /
                                  square_root<T>(squares + T(NORM_EPSILON));
            store<T>(g + i * 4 * F + f, gs + load(both + i * 2 * F + f));
            for (int k = 0; k < 3; k++) {
                vec<T> to_left = g_product * right[k], gv{};
                if (g_v) {
                    gv = load(g_v + (i * 3 + k) * F + f);
                    to_left += scale_vectors * gv;
                }
                store(to_mixed + (i * 3 + k) * 2 * F + f, to_left);
                store<T>(to_mixed + (i * 3 + k) * 2 * F + F + f,
                         g_product * left[k] + g_norm * right[k]);
                store(g + (i * 4 + 1 + k) * F + f, gv);
            }
        }
    for (int i = 0; i < n; i++)  // rows of g are not evenly spaced: atom by atom
        matmul<T>(3, F, 2 * F, to_mixed + i * 6 * F, 2 * F, w.mix_t, g + (i * 4 + 1) * F, F,
                  nullptr, Start::add);
}

// g_vectors [edges, 3] is overwritten. g_one, g_two: room for [atoms, 4, F] each.
template <class T, int V>
void backward(const Graph<T>& graph, const Network<T>& net, const T* g_scalars, const T* g_atoms,
              T* g_one, T* g_two, T* g_vectors, int threads) {
    constexpr int L = Simd<T>::LANES, C = V * L;
    const int F = static_cast<int>(net.F);
    const int64_t size = block_size(graph.atoms, threads), blocks = (graph.atoms + size - 1) / size;
    const ptrdiff_t table_chunk = static_cast<ptrdiff_t>(graph.intervals + 3) * 3 * C;
    const int64_t last = net.layers - 1;
    T *g = g_one, *g_next = g_two;
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
    for (int64_t block = 0; block < blocks; block++) {
        const int64_t start = block * size, stop = std::min(graph.atoms, start + size);
        const int n = static_cast<int>(stop - start);
        T* space = scratch<T>().take(static_cast<size_t>(n) * F * 12);
        update_gradient(net.layer[last], net.saved[last], F, start, n, g_scalars + start * F,
                        g_atoms ? g_atoms + start * 3 * F : nullptr, g + start * 4 * F, space);
        std::memset(g_vectors + 3 * graph.first[start], 0,
                    3 * (graph.first[stop] - graph.first[start]) * sizeof(T));
    }
    for (int64_t l = last; l >= 0; l--) {
        const Layer<T>& w = net.layer[l];
        const Saved<T>& here = net.saved[l];
        const T* v_in = l ? net.saved[l - 1].vectors : nullptr;
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
        for (int64_t block = 0; block < blocks; block++) {
            const int64_t start = block * size, stop = std::min(graph.atoms, start + size);
            const int n = static_cast<int>(stop - start);
            Scratch<T>& own = scratch<T>();
            own.block.read(graph, start, stop);
            own.g_edges.assign(own.block.begin[n] * 4, T(0));
            auto* g_edges = reinterpret_cast<T(*)[4]>(own.g_edges.data());
            T* g_phi = own.take(static_cast<size_t>(n) * F * (3 + 1 + 3 + 12));  // [n, 3F]
            T* g_s = g_phi + n * 3 * F;                                          // [n, F]
            T* g_v = g_s + n * F;                                                // [n, 3, F]
            T* space = g_v + n * 3 * F;
            if (l)
                for (int i = 0; i < n; i++) {
                    std::memcpy(g_s + i * F, g + (start + i) * 4 * F, F * sizeof(T));
                    std::memcpy(g_v + i * 3 * F, g + (start + i) * 4 * F + F, 3 * F * sizeof(T));
                }
            for (int c = 0; c < F / C; c++)
                for (int i = 0; i < n; i++) {
                    const int begin = own.block.begin[i], count = own.block.begin[i + 1] - begin;
                    const Edge<T>* edges = own.block.edges.data() + begin;
                    const T* table = w.table + c * table_chunk;
                    if (l == 0)
                        message_gradients<T, V, false>(
                            edges, count, g + c * C, net.phi0 + net.species[start + i] * 3 * F + c * 3 * C,
                            nullptr, table, F, nullptr, nullptr, g_edges + begin);
                    else
                        message_gradients<T, V, true>(
                            edges, count, g + c * C, here.phi + (start + i) * 3 * F + c * 3 * C,
                            v_in + (start + i) * 3 * F + c * C, table, F,
                            g_phi + i * 3 * F + c * 3 * C, g_v + i * 3 * F + c * C, g_edges + begin);
                }
            for (int e = 0; e < own.block.begin[n]; e++) {
                const Edge<T>& edge = own.block.edges[e];
                add_to_vector(edge, g_edges[e], g_vectors + 3 * edge.slot);
            }
            if (l == 0) continue;
            T* hidden = space;
            matmul<T>(n, F, 3 * F, g_phi, 3 * F, w.context2_t, hidden, F, nullptr, Start::zero);
            times_slope(hidden, here.hidden + start * F, static_cast<int64_t>(n) * F);
            matmul<T>(n, F, F, hidden, F, w.context1_t, g_s, F, nullptr, Start::add);
            update_gradient(net.layer[l - 1], net.saved[l - 1], F, start, n, g_s, g_v,
                            g_next + start * 4 * F, space);
        }
        std::swap(g, g_next);
    }
}

template <class T>
Graph<T> graph_of(int64_t atoms, const int64_t* first, const int64_t* neighbors, const T* vectors,
                  double cutoff, int64_t intervals) {
    return {atoms, first, neighbors, vectors, static_cast<T>(cutoff), static_cast<int>(intervals)};
}

template <class T>
bool by_two(int64_t F) {
    return F % (2 * Simd<T>::LANES) == 0;
}

}  // namespace

// The same in float and double. Pointers to arrays of pointers stand for Layer and Saved.
#define EXPORT(T, SUFFIX)                                                                          \
    extern "C" void eip_forward_##SUFFIX(                                                          \
        int64_t atoms, const int64_t* first, const int64_t* neighbors, const T* vectors,           \
        double cutoff, int64_t intervals, int64_t layers, int64_t F, const int64_t* species,       \
        const T* embedding, const T* phi0, const void* weights, const void* saved, T* scalars,     \
        int64_t threads) {                                                                         \
        const auto graph = graph_of(atoms, first, neighbors, vectors, cutoff, intervals);          \
        const Network<T> net{layers,    F,    species, embedding,                                  \
                             phi0,      static_cast<const Layer<T>*>(weights),                     \
                             static_cast<const Saved<T>*>(saved)};                                 \
        (by_two<T>(F) ? forward<T, 2> : forward<T, 1>)(graph, net, scalars,                        \
                                                       static_cast<int>(threads));                 \
    }                                                                                              \
    extern "C" void eip_backward_##SUFFIX(                                                         \
        int64_t atoms, const int64_t* first, const int64_t* neighbors, const T* vectors,           \
        double cutoff, int64_t intervals, int64_t layers, int64_t F, const int64_t* species,       \
        const T* embedding, const T* phi0, const void* weights, const void* saved,                 \
        const T* g_scalars, const T* g_atoms, T* g_one, T* g_two, T* g_vectors, int64_t threads) { \
        const auto graph = graph_of(atoms, first, neighbors, vectors, cutoff, intervals);          \
        const Network<T> net{layers,    F,    species, embedding,                                  \
                             phi0,      static_cast<const Layer<T>*>(weights),                     \
                             static_cast<const Saved<T>*>(saved)};                                 \
        (by_two<T>(F) ? backward<T, 2> : backward<T, 1>)(graph, net, g_scalars, g_atoms, g_one,    \
                                                         g_two, g_vectors,                         \
                                                         static_cast<int>(threads));               \
    }                                                                                              \
    extern "C" void eip_pack_##SUFFIX(const T* b, int64_t depth, int64_t columns,                  \
                                      int64_t stride_depth, int64_t stride_column, T* packed) {    \
        pack<T>(b, static_cast<int>(depth), static_cast<int>(columns), stride_depth,               \
                stride_column, packed);                                                            \
    }                                                                                              \
    extern "C" int64_t eip_chunk_##SUFFIX(int64_t F) {                                             \
        const int64_t lanes = Simd<T>::LANES;                                                      \
        return F % lanes ? 0 : by_two<T>(F) ? 2 * lanes : lanes;                                   \
    }

EXPORT(float, f32)
EXPORT(double, f64)
