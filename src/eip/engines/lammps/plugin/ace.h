// CartesianACE among several processes: the steps of kernels/cartesian.h, with exchange between them.
//
// Neighbor lists are full, so the way back is a sum over neighbors as the way there is: owners hand out what
// their atoms say (forward), and the gradient in what they heard (back). Nothing is added up across processes
// but forces.
#pragma once

#include "cartesian.h"
#include "packing.h"
#include "surroundings.h"

namespace eip {

template <class T>
class Ace {
public:
    explicit Ace(const Weights& file)
        : F_(channels_of<T>(file)),
          layers_(static_cast<int>(file.whole("layers"))),
          intervals_(static_cast<int>(file.whole("intervals"))),
          cutoff_(file.number("cutoff")),
          inverse_square_(file.number("inverse_square")),
          weights_(layers_),
          saved_(layers_),
          memory_(layers_) {
        using namespace cartesian;
        elements_ = file.array("embedding").shape[0];
        const Layout layout{F_, Simd<T>::LANES, {"embedding", "said", "products"}, {}};
        fill<T>(file, store_, "", CARTESIAN_ELEMENTS(NAME_OF_ARRAY), layout,
                reinterpret_cast<const T**>(&by_element_));
        for (int layer = 0; layer < layers_; layer++)
            fill<T>(file, store_, "layer." + std::to_string(layer) + ".", CARTESIAN_LAYER(NAME_OF_ARRAY),
                    layout, reinterpret_cast<const T**>(&weights_[layer]));
    }

    int channels() const { return F_; }

    // Fills scalars [own, F] and vectors [own, 3, F]; `told` are the edges' vectors that the network is told.
    void forward(const Surroundings& atoms, const T* told, Exchange& exchange, T* scalars, T* vectors) {
        using namespace cartesian;
        const int64_t own = atoms.own * F_;
        for (int layer = 0; layer < layers_; layer++) {
            Saved<T>& to = saved_[layer];
            const bool later = layer > 0;
            T* at = memory_[layer].take((10 + (later ? 9 : 0)) * own);
            const auto part = [&](int components, int64_t size) {
                T* here = at;
                at += components * size;
                return here;
            };
            to.mixed = part(9, own);
            to.pre = part(1, own);
            if (!later) continue;
            to.hidden = part(1, own);
            to.v = part(3, own);
            to.m = part(5, own);
        }
        const int64_t reach = atoms.held * F_ + apart(atoms.held * F_);
        net_ = {{atoms.own, atoms.first, atoms.neighbors, told, static_cast<T>(cutoff_), intervals_},
                layers_,
                F_,
                atoms.species,
                elements_,
                by_element_.embedding,
                by_element_.said,
                weights_.data(),
                saved_.data(),
                atoms.threads,
                static_cast<T>(inverse_square_),
                exchanged_.take(NODE * reach),
                reach};
        for (int layer = 0; layer < layers_; layer++) {
            if (layer > 0) {
                blocks([&](int64_t start, int64_t stop, Work<T>& work) {
                    say<T>(net_, layer, start, stop, scalars, work);
                });
                hand_out(exchange, net_.node, NODE);
            }
            blocks([&](int64_t start, int64_t stop, Work<T>& work) {
                forward_block<T>(net_, layer, start, stop, scalars, vectors, work);
            });
        }
    }

    // Adds the gradient in the edges' vectors to to_vectors; g_vectors may be null. `forward` was before, with
    // atoms and vectors that are still there. `spent`: room for [4, own, F], which may begin with g_scalars, and
    // leave to write over what `forward` has left; null, if the way is to be gone again.
    void backward(const T* g_scalars, const T* g_vectors, T* spent, Exchange& exchange, T* to_vectors) {
        using namespace cartesian;
        // In what the last layer gives there are no matrices; from there on, the last layer's own are not
        // looked at any more.
        const int last = layers_ - 1;
        T* begun = spent ? spent : own_gradient_.take((4 + ALL) * net_.size());
        T* further = spent ? saved_[last].mixed : begun + 4 * net_.size();
        T* G = exchanged_.take(ALL * net_.reach);  // in the place of what was said
        for (int layer = last; layer >= 0; layer--) {
            blocks([&](int64_t start, int64_t stop, Work<T>& work) {
                if (layer == last) begin_back<T>(net_, start, stop, g_scalars, g_vectors, begun);
                update_back<T>(net_, layer, start, static_cast<int>(stop - start),
                               layer == last ? begun : further, G, work.room);
            });
            hand_out(exchange, G, ALL);
            blocks([&](int64_t start, int64_t stop, Work<T>& work) {
                const int rows = static_cast<int>(stop - start);
                if (layer == 0)
                    message_back<T, true>(net_, layer, start, rows, G, further, to_vectors, work);
                else
                    message_back<T, false>(net_, layer, start, rows, G, further, to_vectors, work);
            });
        }
    }

    double bytes() const {
        double all = own_gradient_.memory.size() + exchanged_.memory.size();
        for (const Room<T>& one : memory_) all += one.memory.size();
        return all * sizeof(T);
    }

private:
    int F_, layers_, intervals_;
    int64_t elements_;
    double cutoff_, inverse_square_;
    Store<T> store_;
    cartesian::Elements<T> by_element_;
    std::vector<cartesian::Weights<T>> weights_;
    std::vector<cartesian::Saved<T>> saved_;
    std::vector<Room<T>> memory_;
    Room<T> own_gradient_, exchanged_;
    cartesian::Network<T> net_;

    // What to add to the distance of two components. A neighbor's lie so far apart; were that a multiple of
    // 4096 bytes, as with 16 atoms and 64 channels it is, they would push each other out of the cache.
    static int64_t apart(int64_t size) {
        constexpr int64_t LINE = 64 / sizeof(T);
        return LINE * (1 - size / LINE % 2);
    }

    template <class Do>
    void blocks(const Do& work_on) {
        for_blocks(net_.graph.atoms, net_.threads, [&](int64_t start, int64_t stop) {
            static thread_local cartesian::Work<T> work;
            work_on(start, stop, work);
        });
    }

    void hand_out(Exchange& exchange, T* data, int components) const {
        exchange.rows(reinterpret_cast<char*>(data), components, net_.reach * sizeof(T),
                      F_ * sizeof(T));
    }
};

}  // namespace eip
