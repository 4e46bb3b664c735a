// Vectors along the edges, and the way back to positions and cells.
//
// Positions and cells are double whatever the network computes in: a difference of two floats that
// lie 1,000 Å from the origin has lost the digits that forces are made of.
#include <algorithm>

#include "simd.h"

namespace {

// vectors[e] = x[neighbor] − x[center] + shift · cell[frame of center]
template <class T>
void edge_vectors(int64_t edges, const double* x, const double* cell, const int64_t* frame,
                  const int64_t* centers, const int64_t* neighbors, const float* shifts, T* vectors,
                  int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t e = 0; e < edges; e++) {
        const double *from = x + 3 * centers[e], *to = x + 3 * neighbors[e];
        const float* s = shifts + 3 * e;
        double d[3];
        for (int k = 0; k < 3; k++) d[k] = to[k] - from[k];
        if (s[0] != 0 || s[1] != 0 || s[2] != 0) {
            const double* c = cell + 9 * frame[centers[e]];
            for (int k = 0; k < 3; k++) d[k] += s[0] * c[k] + s[1] * c[3 + k] + s[2] * c[6 + k];
        }
        for (int k = 0; k < 3; k++) vectors[3 * e + k] = static_cast<T>(d[k]);
    }
}

// Its transpose; g_x and g_cell come zeroed. One thread: the order of summation, and with it the
// last bit, does not depend on how many there are, and a step spends under 1 % here.
template <class T>
void edge_vectors_transposed(int64_t edges, const T* g, const int64_t* frame,
                             const int64_t* centers, const int64_t* neighbors,
                             const float* shifts, double* g_x, double* g_cell) {
    for (int64_t e = 0; e < edges; e++) {
        const T* in = g + 3 * e;
        const float* s = shifts + 3 * e;
        double *from = g_x + 3 * centers[e], *to = g_x + 3 * neighbors[e];
        for (int k = 0; k < 3; k++) {
            from[k] -= in[k];
            to[k] += in[k];
        }
        if (g_cell && (s[0] != 0 || s[1] != 0 || s[2] != 0)) {
            double* c = g_cell + 9 * frame[centers[e]];
            for (int a = 0; a < 3; a++)
                for (int k = 0; k < 3; k++) c[3 * a + k] += double(s[a]) * in[k];
        }
    }
}

// Which edges are shorter than the limit of their two elements. Hardly any is, and most are longer
// than every limit: those are told by their length alone.
template <class T>
void closer_than(int64_t edges, int64_t elements, const T* vectors, const int64_t* species,
                 const int64_t* centers, const int64_t* neighbors, const T* limits, bool* out) {
    T longest = 0;
    for (int64_t k = 0; k < elements * elements; k++) longest = std::max(longest, limits[k]);
    for (int64_t e = 0; e < edges; e++) {
        const T* v = vectors + 3 * e;
        const T square = v[0] * v[0] + v[1] * v[1] + v[2] * v[2];
        out[e] = false;
        if (square < longest * longest) {
            const T limit = limits[species[centers[e]] * elements + species[neighbors[e]]];
            out[e] = square < limit * limit;
        }
    }
}

}  // namespace

#define EXPORT(T, SUFFIX)                                                                          \
    extern "C" void eip_edge_vectors_##SUFFIX(                                                     \
        int64_t edges, const double* x, const double* cell, const int64_t* frame,                  \
        const int64_t* centers, const int64_t* neighbors, const float* shifts, T* vectors,         \
        int64_t threads) {                                                                         \
        edge_vectors<T>(edges, x, cell, frame, centers, neighbors, shifts, vectors,                \
                        static_cast<int>(threads));                                                \
    }                                                                                              \
    extern "C" void eip_edge_vectors_transposed_##SUFFIX(                                          \
        int64_t edges, const T* g, const int64_t* frame, const int64_t* centers,                   \
        const int64_t* neighbors, const float* shifts, double* g_x, double* g_cell) {              \
        edge_vectors_transposed<T>(edges, g, frame, centers, neighbors, shifts, g_x, g_cell);      \
    }                                                                                              \
    extern "C" void eip_closer_than_##SUFFIX(                                                      \
        int64_t edges, int64_t elements, const T* vectors, const int64_t* species,                 \
        const int64_t* centers, const int64_t* neighbors, const T* limits, bool* out) {            \
        closer_than<T>(edges, elements, vectors, species, centers, neighbors, limits, out);        \
    }

EXPORT(float, f32)
EXPORT(double, f64)

// first[i] … first[i + 1]: edges of atom i, of a list sorted by centre.
extern "C" void eip_first_edges(int64_t atoms, int64_t edges, const int64_t* centers,
                                int64_t* first) {
    int64_t e = 0;
    for (int64_t i = 0; i < atoms; i++) {
        while (e < edges && centers[e] < i) e++;
        first[i] = e;
    }
    first[atoms] = edges;
}
