// Neighbors of a block of atoms, and the radial filter: a cubic B-spline.
//
// The filter of a layer, W(r) in R^3F, is linear in a few functions of r alone. Each of them is
// given by its coefficients in uniform cubic B-splines (C² over the whole range), so the layer's
// filter is a table [knots, 3F] of coefficients, and W(r) the weighted sum of four of its rows:
// a fifth of the arithmetic of the product basis · weights, and none of its intermediate arrays.
#pragma once

#include <vector>

#include "simd.h"

// The full, sorted list of neighbors: atom i's edges are first[i] … first[i + 1].
template <class T>
struct Graph {
    int64_t atoms;
    const int64_t* first;
    const int64_t* neighbors;
    const T* vectors;  // [edges, 3], from centre to neighbor, Å
    T cutoff;
    int intervals;  // of the spline over [0, cutoff]; the table has intervals + 3 rows
};

template <class T>
struct Edge {
    int64_t slot;      // where in the list
    int32_t neighbor;
    int32_t knot;      // first of the four rows
    T direction[3];    // unit vector from centre to neighbor
    T distance;
    T weight[4];       // W(r) = Σ weight · row
    T slope[4];        // dW/dr = Σ slope · row, 1/Å
};

// Room for lengths on the way; one a thread.
template <class T>
struct Lengths {
    std::vector<T> distance, inverse;
};

// The edges of atom `i` that are shorter than the cutoff (a Verlet list brings longer ones).
template <class T>
static inline int edges_of(const Graph<T>& graph, int64_t i, Edge<T>* out, Lengths<T>& lengths) {
    const int64_t begin = graph.first[i], all = graph.first[i + 1] - begin;
    if (lengths.distance.size() < static_cast<size_t>(all)) {
        lengths.distance.resize(all);
        lengths.inverse.resize(all);
    }
    // Roots and quotients are slow one by one: apart from the rest, the compiler takes many at once.
    T *distances = lengths.distance.data(), *inverses = lengths.inverse.data();
    const T* vectors = graph.vectors + 3 * begin;
    for (int64_t n = 0; n < all; n++) {
        const T x = vectors[3 * n], y = vectors[3 * n + 1], z = vectors[3 * n + 2];
        distances[n] = std::sqrt(x * x + y * y + z * z);
        inverses[n] = T(1) / distances[n];
    }
    const T per_length = graph.intervals / graph.cutoff;
    int count = 0;
    for (int64_t n = 0; n < all; n++) {
        const T distance = distances[n];
        if (!(distance < graph.cutoff)) continue;
        Edge<T>& e = out[count++];
        e.slot = begin + n;
        e.neighbor = static_cast<int32_t>(graph.neighbors[begin + n]);
        e.distance = distance;
        for (int k = 0; k < 3; k++) e.direction[k] = vectors[3 * n + k] * inverses[n];
        const T x = distance * per_length;
        int knot = static_cast<int>(x);
        // Rounding may carry a distance just inside the cutoff to the interval behind it.
        if (knot >= graph.intervals) knot = graph.intervals - 1;
        e.knot = knot;
        const T t = x - knot, s = T(1) - t, sixth = T(1) / T(6);
        e.weight[0] = s * s * s * sixth;
        e.weight[1] = (t * t * (T(3) * t - T(6)) + T(4)) * sixth;
        e.weight[2] = (s * s * (T(3) * s - T(6)) + T(4)) * sixth;
        e.weight[3] = t * t * t * sixth;
        e.slope[0] = T(-0.5) * s * s * per_length;
        e.slope[1] = t * (T(1.5) * t - T(2)) * per_length;
        e.slope[2] = s * (T(2) - T(1.5) * s) * per_length;
        e.slope[3] = T(0.5) * t * t * per_length;
    }
    return count;
}

// The edges of a block of consecutive atoms.
template <class T>
struct Block {
    std::vector<Edge<T>> edges;
    std::vector<int> begin;  // of each atom, in `edges`
    Lengths<T> lengths;

    void read(const Graph<T>& graph, int64_t start, int64_t stop) {
        const size_t most = graph.first[stop] - graph.first[start];
        if (edges.size() < most) edges.resize(most);
        begin.assign(1, 0);
        for (int64_t i = start; i < stop; i++)
            begin.push_back(begin.back() + edges_of(graph, i, edges.data() + begin.back(), lengths));
    }
};
