// The edges of all atoms as training needs them: listed once, with how they change along a direction.
#pragma once

#include <omp.h>

#include <algorithm>
#include <type_traits>

#include "edges.h"

constexpr int64_t BLOCK = 24;  // atoms that share what lies in cache

// How fast an edge's filter and direction change along ḋ.
template <class T>
struct Tangent {
    T weight[4];     // Ẇ = Σ weight · row
    T direction[3];  // of the unit vector
};

template <class T>
static inline Tangent<T> tangent_of(const Edge<T>& e, const T* dot) {
    const T* d = dot + 3 * e.slot;
    const T* u = e.direction;
    const T along = u[0] * d[0] + u[1] * d[1] + u[2] * d[2];
    Tangent<T> out;
    for (int q = 0; q < 4; q++) out.weight[q] = along * e.slope[q];
    for (int k = 0; k < 3; k++) out.direction[k] = (d[k] - along * u[k]) / e.distance;
    return out;
}

// The edges of all atoms within the cutoff, once for all layers and passes.
template <class T>
struct List {
    int64_t atoms;
    const int64_t* begin;
    const Edge<T>* edges;
};

template <class T, class Work>
static void for_blocks(const List<T>& list, int threads, const Work& work) {
    const int64_t blocks = (list.atoms + BLOCK - 1) / BLOCK;
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
    for (int64_t block = 0; block < blocks; block++)
        work(block * BLOCK, std::min(list.atoms, (block + 1) * BLOCK));
}

template <class T>
static std::vector<Tangent<T>> all_tangents(const List<T>& list, const T* dot, int threads) {
    std::vector<Tangent<T>> out(list.begin[list.atoms]);
    const int64_t count = list.begin[list.atoms];
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t e = 0; e < count; e++) out[e] = tangent_of(list.edges[e], dot);
    return out;
}

// ∂/∂r and ∂/∂û of an edge as the gradient of its vector.
template <class T>
static inline void add_to_vector(const Edge<T>& e, const T* g, T* out) {
    const T* u = e.direction;
    const T inverse = T(1) / e.distance;
    const T radial = g[0] - inverse * (u[0] * g[1] + u[1] * g[2] + u[2] * g[3]);
    for (int k = 0; k < 3; k++) out[k] += radial * u[k] + inverse * g[1 + k];
}
