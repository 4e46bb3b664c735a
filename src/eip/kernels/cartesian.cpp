// CartesianACE (cartesian.h) of one process: all layers forward, and back.
#include <omp.h>

#include "cartesian.h"

namespace {

using namespace cartesian;

template <class T>
void forward(const Network<T>& net, T* scalars, T* vectors) {
    const int64_t atoms = net.graph.atoms, blocks = (atoms + BLOCK - 1) / BLOCK;
#pragma omp parallel num_threads(net.threads)
    {
        static thread_local Work<T> work;
        for (int layer = 0; layer < net.layers; layer++) {
            if (layer > 0) {
#pragma omp for schedule(dynamic, 1)
                for (int64_t b = 0; b < blocks; b++)
                    say<T>(net, layer, b * BLOCK, std::min(atoms, (b + 1) * BLOCK), scalars, work);
            }
#pragma omp for schedule(dynamic, 1)
            for (int64_t b = 0; b < blocks; b++)
                forward_block<T>(net, layer, b * BLOCK, std::min(atoms, (b + 1) * BLOCK), scalars,
                                 vectors, work);
        }
    }
}

// g and G: room for [9, atoms, F] each. g_vectors may be null.
template <class T>
void backward(const Network<T>& net, const T* g_scalars, const T* g_vectors, T* g, T* G,
              T* to_vectors) {
    const int64_t atoms = net.graph.atoms, blocks = (atoms + BLOCK - 1) / BLOCK;
#pragma omp parallel num_threads(net.threads)
    {
        static thread_local Work<T> work;
        static thread_local Room<T> room;
        for (int layer = net.layers - 1; layer >= 0; layer--) {
#pragma omp for schedule(dynamic, 1)
            for (int64_t b = 0; b < blocks; b++) {
                const int64_t start = b * BLOCK, stop = std::min(atoms, start + BLOCK);
                if (layer == net.layers - 1)
                    begin_back<T>(net, start, stop, g_scalars, g_vectors, g);
                update_back<T>(net, layer, start, static_cast<int>(stop - start), g, G, room);
            }
#pragma omp for schedule(dynamic, 1)
            for (int64_t b = 0; b < blocks; b++) {
                const int64_t start = b * BLOCK;
                const int rows = static_cast<int>(std::min(atoms, start + BLOCK) - start);
                if (layer == 0)
                    message_back<T, true>(net, layer, start, rows, G, g, to_vectors, work);
                else
                    message_back<T, false>(net, layer, start, rows, G, g, to_vectors, work);
            }
        }
    }
}

}  // namespace

EXPORT_FIELDS(cartesian_ace_elements, CARTESIAN_ELEMENTS)
EXPORT_FIELDS(cartesian_ace_layer, CARTESIAN_LAYER)
EXPORT_FIELDS(cartesian_ace_saved, CARTESIAN_SAVED)

// `packed` holds Elements and the layers' Weights (packed.h); an array of pointers stands for Saved.
#define HEAD(T)                                                                                     \
    int64_t atoms, const int64_t *first, const int64_t *neighbors, const T *vectors, double cutoff, \
        int64_t intervals, int64_t layers, int64_t F, const int64_t *species, const void *packed,   \
        const void *saved, int64_t threads, int64_t elements, double inverse_square, T *node, \
        int64_t reach
#define NETWORK(T)                                                                                  \
    const auto block = addresses(packed, (sizeof(Elements<T>) + layers * sizeof(Weights<T>)) /      \
                                             sizeof(void*));                                        \
    const auto* own = reinterpret_cast<const Elements<T>*>(block.data());                           \
    const Network<T> net{                                                                           \
        {atoms, first, neighbors, vectors, static_cast<T>(cutoff), static_cast<int>(intervals)},    \
        static_cast<int>(layers),                                                                   \
        static_cast<int>(F),                                                                        \
        species,                                                                                    \
        elements,                                                                                   \
        own->embedding,                                                                             \
        own->said,                                                                                  \
        reinterpret_cast<const Weights<T>*>(own + 1),                                               \
        static_cast<const Saved<T>*>(saved),                                                        \
        static_cast<int>(threads),                                                                  \
        static_cast<T>(inverse_square),                                                              \
        node,                                                                                       \
        reach};
#define EXPORT(T, SUFFIX)                                                                           \
    extern "C" void eip_cartesian_ace_##SUFFIX(HEAD(T), T* scalars, T* features) {                  \
        NETWORK(T)                                                                                  \
        forward<T>(net, scalars, features);                                                         \
    }                                                                                               \
    extern "C" void eip_cartesian_ace_backward_##SUFFIX(HEAD(T), const T* g_scalars,                \
                                                        const T* g_vectors, T* g, T* G,             \
                                                        T* to_vectors) {                            \
        NETWORK(T)                                                                                  \
        backward<T>(net, g_scalars, g_vectors, g, G, to_vectors);                                   \
    }

EXPORT(float, f32)
EXPORT(double, f64)
