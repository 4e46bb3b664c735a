// CartesianACE (`eip.models.cartesian_ace`) with weights that stay as they are: features and the gradient
// in the edges' vectors.
//
// Atoms go by blocks, whose intermediate results lie in cache; the sums over neighbors (coupling.h) read
// what other blocks have written, so a layer ends with a barrier. Arrays of atoms are components first:
// scalars [atoms, F], vectors [3, atoms, F], matrices [5, atoms, F].
//
// What neighbors read, `node` on the way there and G on the way back, has rows for atoms of other
// processes too, behind the own ones; where there are such, whoever calls fills them between the
// steps: say, then `node`, then forward_block; update_back, then G, then message_back.
//
// Memory is what limits large systems: one `node` serves all layers, and what the gradient can have back
// from what is kept by one matrix product (what was said, and the gates) is not kept.
#pragma once

#include <algorithm>

#include "coupling.h"
#include "packed.h"
#include "products.h"

namespace cartesian {

constexpr int S = 1, V = 3, M = 5, ALL = 9, NODE = 11;

// Matrices are panels (`matmul`), once as they are and once transposed for the gradient. The first layer
// has no context, since what its atoms say depends on the element alone; the last has no matrices to give.
#define CARTESIAN_LAYER(X)                                                                                    \
    X(context_one) X(context_one_bias) X(context_one_back)                                          \
    X(context_two) X(context_two_bias) X(context_two_back) X(table)                                 \
    X(mix_s) X(mix_s_back) X(mix_v) X(mix_v_back) X(mix_m) X(mix_m_back) X(products)                \
    X(gate_of_s) X(gate_of_s_back) X(gate_of_x) X(gate_of_x_back) X(gate_bias)                      \
    X(gate_two) X(gate_two_bias) X(gate_two_back)                                                   \
    X(to_s) X(to_s_back) X(to_v) X(to_v_back) X(to_m) X(to_m_back)
template <class T>
struct Weights {
    CARTESIAN_LAYER(CONST_ARRAY)
};

// By element: the embedding [elements, F], and what atoms say in the first layer [3, elements, F].
#define CARTESIAN_ELEMENTS(X) X(embedding) X(said)
template <class T>
struct Elements {
    CARTESIAN_ELEMENTS(CONST_ARRAY)
};

// What the gradient needs of a layer. Of the first, the first three are null: it has no vectors yet.
//
//     hidden  of what an atom says, before SiLU [1]
//     v, m    vectors and matrices before the layer [3], [5]
//     mixed   before products [9]
//     pre     of the gate, before SiLU [1]
#define CARTESIAN_SAVED(X) X(hidden) X(v) X(m) X(mixed) X(pre)
template <class T>
struct Saved {
    CARTESIAN_SAVED(ARRAY)
};

template <class T>
struct Network {
    Graph<T> graph;
    int layers, F;
    const int64_t* species;
    int64_t elements;
    const T *embedding, *said;
    const Weights<T>* weights;
    const Saved<T>* saved;
    int threads;
    T inverse_square;  // of the limit of what is multiplied
    T* node;           // what is said in a layer: three scalars, vector, matrix [11]; not on the way back
    int64_t reach;     // from a component to the next of what neighbors read

    int64_t size() const { return graph.atoms * F; }
    int64_t knots() const { return graph.intervals + 3; }
};

// One block of atoms: what a thread needs for it.
template <class T>
struct Work {
    Block<T> block;
    Room<T> room, own;
    std::vector<T> edges;
};

template <class T>
void silu_of(int64_t count, const T* from, T* to) {
    for (int64_t k = 0; k < count; k += Simd<T>::LANES) store<T>(to + k, silu<T>(load(from + k)));
}
template <class T>
void times_silu_slope(int64_t count, const T* pre, T* g) {
    for (int64_t k = 0; k < count; k += Simd<T>::LANES)
        store<T>(g + k, load(g + k) * silu_slope<T>(load(pre + k)));
}

// The components of a block, each [rows, F], mixed over channels.
template <class T>
void mix(int components, int rows, int F, const T* from, int64_t from_stride, const T* panels, T* to,
         int64_t to_stride, Start start = Start::zero) {
    for (int k = 0; k < components; k++)
        matmul<T>(rows, F, F, from + k * from_stride, F, panels, to + k * to_stride, F, nullptr, start);
}

// How loud a block of atoms says what, from `hidden`: three scalars, a factor for vectors and one for
// matrices, [rows, 5F]. `active` is room for [rows, F].
template <class T>
void context_of(const Network<T>& net, int layer, int64_t start, int rows, T* active, T* context) {
    const int F = net.F;
    const Weights<T>& w = net.weights[layer];
    silu_of<T>(static_cast<int64_t>(rows) * F, net.saved[layer].hidden + start * F, active);
    matmul<T>(rows, 5 * F, F, active, F, w.context_two, context, 5 * F, w.context_two_bias, Start::bias);
}

// What one atom of a block says, one chunk of it.
template <class T>
coupling::Node<vec<T>> said_by(const Network<T>& net, int layer, int64_t at, const T* context) {
    const int F = net.F;
    const int64_t size = net.size();
    const Saved<T>& saved = net.saved[layer];
    coupling::Node<vec<T>> node;
    for (int k = 0; k < 3; k++) node.said[k] = load(context + k * F);
    const vec<T> of_v = load(context + 3 * F), of_m = load(context + 4 * F);
    for (int k = 0; k < V; k++) node.v[k] = of_v * load(saved.v + k * size + at);
    for (int k = 0; k < M; k++) node.t[k] = of_m * load(saved.m + k * size + at);
    return node;
}

// What a block of atoms says in a layer, but in the first: fills `hidden` and `node`. All atoms have been
// through the layer before.
template <class T>
void say(const Network<T>& net, int layer, int64_t start, int64_t stop, const T* scalars, Work<T>& work) {
    constexpr int L = Simd<T>::LANES;
    const int F = net.F, rows = static_cast<int>(stop - start);
    const int64_t at = start * F, count = static_cast<int64_t>(rows) * F;
    const Weights<T>& w = net.weights[layer];
    T *active = work.room.take(6 * count), *context = active + count;
    matmul<T>(rows, F, F, scalars + at, F, w.context_one, net.saved[layer].hidden + at, F,
              w.context_one_bias, Start::bias);
    context_of<T>(net, layer, start, rows, active, context);
    const coupling::NodeArrays<T> to{net.node, net.node + 3 * net.reach, net.node + 6 * net.reach};
    for (int i = 0; i < rows; i++)
        for (int c = 0; c < F; c += L) {
            const int64_t own = at + static_cast<int64_t>(i) * F + c;
            const auto node = said_by<T>(net, layer, own, context + static_cast<int64_t>(i) * 5 * F + c);
            coupling::write<T, false>(to, net.reach, own, node);
        }
}

template <class T>
coupling::NodeArrays<const T> node_of(const Network<T>& net, int layer) {
    if (layer == 0) return {net.said, nullptr, nullptr};
    return {net.node, net.node + 3 * net.reach, net.node + 6 * net.reach};
}

// The sums of a block, and what was there before them, [9, rows, F].
template <class T, bool FIRST>
void hear(const Network<T>& net, int layer, int64_t start, int rows, const T* s, const Block<T>& block,
          T* out) {
    constexpr int L = Simd<T>::LANES, P = FIRST ? coupling::FIRST_PATHS : coupling::PATHS;
    const int F = net.F;
    const int64_t count = static_cast<int64_t>(rows) * F, size = net.size();
    const Saved<T>& saved = net.saved[layer];
    for (int c = 0; c < F / L; c++) {
        const T* table = net.weights[layer].table + c * net.knots() * P * L;
        for (int i = 0; i < rows; i++) {
            auto sum = coupling::sums_of<T, FIRST>(
                block.edges.data() + block.begin[i], block.begin[i + 1] - block.begin[i], table,
                node_of(net, layer), FIRST ? net.species : nullptr,
                FIRST ? net.elements * F : net.reach, F, c);
            const int64_t own = static_cast<int64_t>(i) * F + c * L, at = start * F + own;
            sum.s += load(s + own);
            if (!FIRST) {
                for (int k = 0; k < V; k++) sum.v[k] += load(saved.v + k * size + at);
                for (int k = 0; k < M; k++) sum.t[k] += load(saved.m + k * size + at);
            }
            coupling::write<T>({out, out + count, out + 4 * count}, count, own, sum);
        }
    }
}

// Products of a block's mixed components [9, rows, F].
template <class T>
void multiply(const Network<T>& net, int layer, int64_t start, int rows, T* out) {
    constexpr int L = Simd<T>::LANES;
    const int F = net.F;
    const int64_t count = static_cast<int64_t>(rows) * F, size = net.size();
    const T* mixed = net.saved[layer].mixed;
    const products::Arrays<const T> from{mixed, mixed + size, mixed + 4 * size};
    for (int i = 0; i < rows; i++) {
        const T* w = net.weights[layer].products + net.species[start + i] * products::PRODUCTS * F;
        for (int c = 0; c < F; c += L) {
            const int64_t own = static_cast<int64_t>(i) * F + c;
            vec<T> weight[products::PRODUCTS];
            for (int k = 0; k < products::PRODUCTS; k++) weight[k] = load(w + k * F + c);
            products::Triple<vec<T>> one;
            products::read<T>(from, from, size, start * F + own, one);
            products::write<T>({out, out + count, out + 4 * count}, count, own,
                               products::bounded_values<T>(one, weight, net.inverse_square));
        }
    }
}

// One layer of a block of atoms, up to vectors and matrices before the next.
template <class T>
void forward_block(const Network<T>& net, int layer, int64_t start, int64_t stop, T* scalars,
                   T* vectors, Work<T>& work) {
    constexpr int L = Simd<T>::LANES;
    const int F = net.F, rows = static_cast<int>(stop - start);
    const int64_t size = net.size(), at = start * F;
    const Weights<T>& w = net.weights[layer];
    const Saved<T>& saved = net.saved[layer];
    const bool last = layer == net.layers - 1;
    const int64_t count = static_cast<int64_t>(rows) * F;
    T* before = work.own.take((2 * ALL + 5) * count);
    T *made = before + ALL * count, *hidden = made + ALL * count, *gates = hidden + count;
    T* s = scalars + at;
    if (layer == 0)
        for (int i = 0; i < rows; i++)
            std::copy_n(net.embedding + net.species[start + i] * F, F, s + i * F);
    work.block.read(net.graph, start, stop);
    if (layer == 0)
        hear<T, true>(net, layer, start, rows, s, work.block, before);
    else
        hear<T, false>(net, layer, start, rows, s, work.block, before);
    T* mixed = saved.mixed + at;
    mix<T>(S, rows, F, before, count, w.mix_s, mixed, size);
    mix<T>(V, rows, F, before + count, count, w.mix_v, mixed + size, size);
    mix<T>(M, rows, F, before + 4 * count, count, w.mix_m, mixed + 4 * size, size);
    multiply<T>(net, layer, start, rows, made);
    T* pre = saved.pre + at;
    matmul<T>(rows, F, F, before, F, w.gate_of_s, pre, F, w.gate_bias, Start::bias);
    matmul<T>(rows, F, F, made, F, w.gate_of_x, pre, F, nullptr, Start::add);
    silu_of<T>(count, pre, hidden);
    matmul<T>(rows, 3 * F, F, hidden, F, w.gate_two, gates, 3 * F, w.gate_two_bias,
              Start::bias);
    for (int i = 0; i < rows; i++)
        for (int c = 0; c < F; c += L) {
            const T* gate = gates + static_cast<int64_t>(i) * 3 * F + c;
            const int64_t own = static_cast<int64_t>(i) * F + c;
            const vec<T> of_v = load(gate + F), of_m = load(gate + 2 * F);
            store<T>(s + own, load(before + own) + load(gate));
            for (int k = 1; k < 1 + V; k++)
                store<T>(made + k * count + own, of_v * load(made + k * count + own));
            for (int k = 4; k < ALL; k++)
                store<T>(made + k * count + own, of_m * load(made + k * count + own));
        }
    matmul<T>(rows, F, F, made, F, w.to_s, s, F, nullptr, Start::add);
    mix<T>(V, rows, F, made + count, count, w.to_v, before + count, count, Start::add);
    if (last) {
        for (int i = 0; i < rows; i++)
            for (int k = 0; k < V; k++)
                std::copy_n(before + (1 + k) * count + i * F, F,
                            vectors + ((start + i) * V + k) * F);
        return;
    }
    mix<T>(M, rows, F, made + 4 * count, count, w.to_m, before + 4 * count, count,
           Start::add);
    const Saved<T>& next = net.saved[layer + 1];
    for (int k = 0; k < V; k++)
        std::copy_n(before + (1 + k) * count, count, next.v + k * size + at);
    for (int k = 0; k < M; k++)
        std::copy_n(before + (4 + k) * count, count, next.m + k * size + at);
}

// From the gradient in what a layer gives, g [9, atoms, F], that in what it has after the sums, G. In
// what a last layer gives there are no matrices.
template <class T>
void update_back(const Network<T>& net, int layer, int64_t start, int rows, const T* g, T* G,
                 Room<T>& room) {
    constexpr int L = Simd<T>::LANES;
    const int F = net.F;
    const int64_t count = static_cast<int64_t>(rows) * F, size = net.size(), at = start * F;
    const int64_t reach = net.reach;
    const Weights<T>& w = net.weights[layer];
    const Saved<T>& saved = net.saved[layer];
    T* made = room.take((3 * ALL + 7) * count);
    T *to_made = made + ALL * count, *to_mixed = to_made + ALL * count;
    T *to_gates = to_mixed + ALL * count, *to_pre = to_gates + 3 * count, *gates = to_pre + count;
    multiply<T>(net, layer, start, rows, made);
    silu_of<T>(count, saved.pre + at, to_pre);
    matmul<T>(rows, 3 * F, F, to_pre, F, w.gate_two, gates, 3 * F, w.gate_two_bias, Start::bias);
    mix<T>(V, rows, F, g + size + at, size, w.to_v_back, to_made + count, count);
    if (w.to_m)
        mix<T>(M, rows, F, g + 4 * size + at, size, w.to_m_back, to_made + 4 * count, count);
    else
        std::fill_n(to_made + 4 * count, M * count, T(0));
    for (int i = 0; i < rows; i++)
        for (int c = 0; c < F; c += L) {
            const int64_t own = static_cast<int64_t>(i) * F + c;
            const int64_t of_row = static_cast<int64_t>(i) * 3 * F + c;
            T* gate = to_gates + of_row;
            const vec<T> of_v = load(gates + of_row + F), of_m = load(gates + of_row + 2 * F);
            vec<T> to_v{}, to_m{};
            for (int k = 1; k < 1 + V; k++) {
                const vec<T> one = load(to_made + k * count + own);
                to_v += one * load(made + k * count + own);
                store<T>(to_made + k * count + own, of_v * one);
            }
            for (int k = 4; k < ALL; k++) {
                const vec<T> one = load(to_made + k * count + own);
                to_m += one * load(made + k * count + own);
                store<T>(to_made + k * count + own, of_m * one);
            }
            store<T>(gate, load(g + at + own));
            store<T>(gate + F, to_v);
            store<T>(gate + 2 * F, to_m);
        }
    matmul<T>(rows, F, 3 * F, to_gates, 3 * F, w.gate_two_back, to_pre, F, nullptr, Start::zero);
    times_silu_slope<T>(count, saved.pre + at, to_pre);
    for (int k = 0; k < ALL; k++)
        if (k < 4 || w.to_m)
            std::copy_n(g + k * size + at, count, G + k * reach + at);
        else
            std::fill_n(G + k * reach + at, count, T(0));
    matmul<T>(rows, F, F, to_pre, F, w.gate_of_s_back, G + at, F, nullptr, Start::add);
    matmul<T>(rows, F, F, to_pre, F, w.gate_of_x_back, to_made, F, nullptr, Start::zero);
    matmul<T>(rows, F, F, g + at, F, w.to_s_back, to_made, F, nullptr, Start::add);
    const products::Arrays<const T> mixed{saved.mixed, saved.mixed + size, saved.mixed + 4 * size};
    const products::Arrays<const T> gradient{to_made, to_made + count, to_made + 4 * count};
    for (int i = 0; i < rows; i++) {
        const T* weights = w.products + net.species[start + i] * products::PRODUCTS * F;
        for (int c = 0; c < F; c += L) {
            const int64_t own = static_cast<int64_t>(i) * F + c;
            vec<T> weight[products::PRODUCTS], to_weight[products::PRODUCTS];
            for (int k = 0; k < products::PRODUCTS; k++) weight[k] = load(weights + k * F + c);
            products::Triple<vec<T>> one, from;
            products::read<T>(mixed, mixed, size, at + own, one);
            products::read<T>(gradient, gradient, count, own, from);
            products::write<T>({to_mixed, to_mixed + count, to_mixed + 4 * count}, count, own,
                               products::bounded_gradient<T>(one, weight, from, net.inverse_square, to_weight));
        }
    }
    mix<T>(S, rows, F, to_mixed, count, w.mix_s_back, G + at, size, Start::add);
    mix<T>(V, rows, F, to_mixed + count, count, w.mix_v_back, G + reach + at, reach, Start::add);
    mix<T>(M, rows, F, to_mixed + 4 * count, count, w.mix_m_back, G + 4 * reach + at, reach, Start::add);
}

// From G, of all atoms, the gradient in the edges' vectors of a block and, but in the first layer, that
// in what the layer before gave.
template <class T, bool FIRST>
void message_back(const Network<T>& net, int layer, int64_t start, int rows, const T* G, T* g,
                  T* to_vectors, Work<T>& work) {
    constexpr int L = Simd<T>::LANES, P = FIRST ? coupling::FIRST_PATHS : coupling::PATHS;
    const int F = net.F;
    const int64_t count = static_cast<int64_t>(rows) * F, size = net.size(), at = start * F;
    const int64_t reach = net.reach;
    const Weights<T>& w = net.weights[layer];
    const Saved<T>& saved = net.saved[layer];
    work.block.read(net.graph, start, start + rows);
    const Block<T>& block = work.block;
    work.edges.assign(4 * block.begin[rows], T(0));
    auto* g_edges = reinterpret_cast<T(*)[4]>(work.edges.data());
    T *to_context = nullptr, *to_hidden = nullptr, *said = nullptr;
    if (!FIRST) {
        to_context = work.room.take(11 * count);
        to_hidden = to_context + 5 * count;
        said = to_hidden + count;
        context_of<T>(net, layer, start, rows, to_hidden, said);
    }
    const coupling::SumArrays<const T> sums{G, G + reach, G + 4 * reach};
    for (int c = 0; c < F / L; c++) {
        const T* table = w.table + c * net.knots() * P * L;
        for (int i = 0; i < rows; i++) {
            const int64_t own = at + static_cast<int64_t>(i) * F + c * L;
            const int64_t of_row = static_cast<int64_t>(i) * 5 * F + c * L;
            coupling::Node<vec<T>> node;
            if (FIRST)
                coupling::read<T, FIRST>(node_of(net, layer), net.elements * F,
                                         net.species[start + i] * F + c * L, node);
            else
                node = said_by<T>(net, layer, own, said + of_row);
            const auto to = coupling::gradients_of<T, FIRST>(
                block.edges.data() + block.begin[i], block.begin[i + 1] - block.begin[i], table, sums,
                node, reach, F, c, g_edges + block.begin[i]);
            if (FIRST) continue;
            const vec<T> of_v = load(said + of_row + 3 * F), of_m = load(said + of_row + 4 * F);
            T* context = to_context + of_row;
            vec<T> to_v{}, to_m{};
            for (int k = 0; k < V; k++) {
                to_v += to.v[k] * load(saved.v + k * size + own);
                store<T>(g + (1 + k) * size + own, load(G + (1 + k) * reach + own) + of_v * to.v[k]);
            }
            for (int k = 0; k < M; k++) {
                to_m += to.t[k] * load(saved.m + k * size + own);
                store<T>(g + (4 + k) * size + own, load(G + (4 + k) * reach + own) + of_m * to.t[k]);
            }
            for (int k = 0; k < 3; k++) store<T>(context + k * F, to.said[k]);
            store<T>(context + 3 * F, to_v);
            store<T>(context + 4 * F, to_m);
        }
    }
    for (int64_t e = 0; e < block.begin[rows]; e++)
        add_to_vector(block.edges[e], g_edges[e], to_vectors + 3 * block.edges[e].slot);
    if (FIRST) return;
    matmul<T>(rows, F, 5 * F, to_context, 5 * F, w.context_two_back, to_hidden, F, nullptr,
              Start::zero);
    times_silu_slope<T>(count, saved.hidden + at, to_hidden);
    std::copy_n(G + at, count, g + at);
    matmul<T>(rows, F, F, to_hidden, F, w.context_one_back, g + at, F, nullptr, Start::add);
}

// The gradient in what the last layer gives as `update_back` takes it; g_vectors may be null.
template <class T>
void begin_back(const Network<T>& net, int64_t start, int64_t stop, const T* g_scalars,
                const T* g_vectors, T* g) {
    const int F = net.F;
    const int64_t size = net.size();
    if (g_scalars != g) std::copy_n(g_scalars + start * F, (stop - start) * F, g + start * F);
    for (int64_t i = start; i < stop; i++)
        for (int k = 0; k < V; k++) {
            T* to = g + (1 + k) * size + i * F;
            if (g_vectors)
                std::copy_n(g_vectors + (i * V + k) * F, F, to);
            else
                std::fill_n(to, F, T(0));
        }
}

}  // namespace cartesian
