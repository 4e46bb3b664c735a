// PaiNN (painn.h) of one process: all layers forward, and back.
#include <omp.h>

#include "painn.h"

namespace {

using namespace painn;

template <class T, int V>
void forward(const Graph<T>& graph, const Network<T>& net, T* scalars, int threads) {
    const int64_t size = block_size(graph.atoms, threads), blocks = (graph.atoms + size - 1) / size;
    for (int64_t l = 0; l < net.layers; l++) {
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
        for (int64_t block = 0; block < blocks; block++)
            forward_block<T, V>(graph, net, l, block * size,
                                std::min(graph.atoms, (block + 1) * size), scalars);
    }
}

// g_vectors [edges, 3] is overwritten; g_scalars and g_atoms (or null) are those of the features.
template <class T, int V>
void backward(const Graph<T>& graph, const Network<T>& net, const T* g_scalars, const T* g_atoms,
              const Gradient<T>* gradient, T* g_vectors, int threads) {
    const int64_t size = block_size(graph.atoms, threads), blocks = (graph.atoms + size - 1) / size;
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
    for (int64_t block = 0; block < blocks; block++) {
        const int64_t start = block * size, stop = std::min(graph.atoms, start + size);
        begin_back<T>(net, start, stop, g_scalars, g_atoms, gradient);
        std::memset(g_vectors + 3 * graph.first[start], 0,
                    3 * (graph.first[stop] - graph.first[start]) * sizeof(T));
    }
    for (int64_t l = net.layers - 1; l >= 0; l--) {
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
        for (int64_t block = 0; block < blocks; block++)
            back_block<T, V>(graph, net, l, block * size, std::min(graph.atoms, (block + 1) * size),
                             gradient, g_vectors);
    }
}

}  // namespace

EXPORT_FIELDS(painn_elements, PAINN_ELEMENTS)
EXPORT_FIELDS(painn_layer, PAINN_LAYER)
EXPORT_FIELDS(painn_saved, PAINN_SAVED)
EXPORT_FIELDS(painn_gradient, PAINN_GRADIENT)

// `packed` holds Elements and the Layers (packed.h); pointers to arrays of pointers stand for Saved and
// Gradient.
#define HEAD(T)                                                                                    \
    int64_t atoms, const int64_t *first, const int64_t *neighbors, const T *vectors,               \
        double cutoff, int64_t intervals, int64_t layers, int64_t F, const int64_t *species,       \
        const void *packed, const void *saved, int64_t threads
#define NETWORK(T)                                                                                 \
    const Graph<T> graph{atoms,   first, neighbors, vectors, static_cast<T>(cutoff),               \
                         static_cast<int>(intervals)};                                             \
    const auto block = addresses(packed, (sizeof(Elements<T>) + layers * sizeof(Layer<T>)) /       \
                                             sizeof(void*));                                       \
    const auto* elements = reinterpret_cast<const Elements<T>*>(block.data());                     \
    const Network<T> net{layers,                                                                   \
                         F,                                                                        \
                         species,                                                                  \
                         elements->embedding,                                                      \
                         elements->phi0,                                                           \
                         reinterpret_cast<const Layer<T>*>(elements + 1),                          \
                         static_cast<const Saved<T>*>(saved)};
#define EXPORT(T, SUFFIX)                                                                          \
    extern "C" void eip_painn_##SUFFIX(HEAD(T), T* scalars) {                                      \
        NETWORK(T)                                                                                 \
        (by_two<T>(F) ? forward<T, 2> : forward<T, 1>)(graph, net, scalars,                        \
                                                       static_cast<int>(threads));                 \
    }                                                                                              \
    extern "C" void eip_painn_backward_##SUFFIX(HEAD(T), const T* g_scalars, const T* g_atoms,     \
                                                const void* gradient, T* g_vectors) {              \
        NETWORK(T)                                                                                 \
        (by_two<T>(F) ? backward<T, 2> : backward<T, 1>)(                                          \
            graph, net, g_scalars, g_atoms, static_cast<const Gradient<T>*>(gradient), g_vectors,  \
            static_cast<int>(threads));                                                            \
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
