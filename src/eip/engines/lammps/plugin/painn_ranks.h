// PaiNN among several processes: the steps of kernels/painn.h, with exchange between them; see ace.h.
#pragma once

#include "packing.h"
#include "painn.h"
#include "surroundings.h"

namespace eip {

template <class T>
class PaiNN {
public:
    explicit PaiNN(const Weights& file)
        : F_(channels_of<T>(file)),
          layers_(static_cast<int>(file.whole("layers"))),
          intervals_(static_cast<int>(file.whole("intervals"))),
          cutoff_(file.number("cutoff")),
          weights_(layers_),
          saved_(layers_),
          gradient_(layers_),
          memory_(layers_) {
        using namespace painn;
        const int chunk = by_two<T>(F_) ? 2 * Simd<T>::LANES : Simd<T>::LANES;
        const Layout layout{F_, chunk, {"embedding", "phi0"}, {"context2", "context2_bias"}};
        fill<T>(file, store_, "", PAINN_ELEMENTS(NAME_OF_ARRAY), layout,
                reinterpret_cast<const T**>(&by_element_));
        std::vector<T> phi;
        for (int64_t k = 0; k < file.array("phi0").shape[0]; k++) {
            const T* row = by_element_.phi0 + k * 3 * F_;
            const std::vector<T> own = in_chunks(std::vector<T>(row, row + 3 * F_), F_, chunk, 1);
            phi.insert(phi.end(), own.begin(), own.end());
        }
        by_element_.phi0 = store_.copy(phi);
        for (int layer = 0; layer < layers_; layer++)
            fill<T>(file, store_, "layer." + std::to_string(layer) + ".", PAINN_LAYER(NAME_OF_ARRAY), layout,
                    reinterpret_cast<const T**>(&weights_[layer]));
    }

    int channels() const { return F_; }

    // Fills scalars [own, F] and vectors [own, 3, F]; `told` are the edges' vectors that the network is told.
    void forward(const Surroundings& atoms, const T* told, Exchange& exchange, T* scalars, T* vectors) {
        using namespace painn;
        const int64_t own = atoms.own * F_, held = atoms.held * F_;
        for (int l = 0; l < layers_; l++) {
            Saved<T>& to = saved_[l];
            const bool later = l > 0, last = l == layers_ - 1;
            T* at = memory_[l].take((9 + later) * own + (3 * later + 3 * !last) * held);
            const auto part = [&](int components, int64_t size) {
                T* here = at;
                at += components * size;
                return here;
            };
            to.left = part(3, own);
            to.right = part(3, own);
            to.pre = part(1, own);
            to.scales = part(2, own);
            to.hidden = later ? part(1, own) : nullptr;
            to.phi = later ? part(3, held) : nullptr;
            to.vectors = last ? vectors : part(3, held);
        }
        graph_ = {atoms.own, atoms.first, atoms.neighbors, told, static_cast<T>(cutoff_), intervals_};
        net_ = {layers_, F_, atoms.species, by_element_.embedding, by_element_.phi0, weights_.data(), saved_.data()};
        held_ = atoms.held;
        threads_ = atoms.threads;
        for (int l = 0; l < layers_; l++) {
            for_blocks(atoms.own, threads_, [&](int64_t start, int64_t stop) {
                if (by_two<T>(F_))
                    forward_block<T, 2>(graph_, net_, l, start, stop, scalars);
                else
                    forward_block<T, 1>(graph_, net_, l, start, stop, scalars);
            });
            if (l == layers_ - 1) break;
            hand_out(exchange, saved_[l + 1].phi, 3);
            hand_out(exchange, saved_[l].vectors, 3);
        }
    }

    // Adds the gradient in the edges' vectors to to_vectors; g_vectors may be null. `forward` was before, with
    // atoms and vectors that are still there.
    void backward(const T* g_scalars, const T* g_vectors, T*, Exchange& exchange, T* to_vectors) {
        using namespace painn;
        // Two in turn: a layer reads one and writes the other.
        const int64_t held = held_ * F_;
        T* at = room_.take(8 * held);
        for (int l = 0; l < layers_; l++) {
            gradient_[l].s = at + l % 2 * 4 * held;
            gradient_[l].v = gradient_[l].s + held;
        }
        for_blocks(graph_.atoms, threads_, [&](int64_t start, int64_t stop) {
            begin_back<T>(net_, start, stop, g_scalars, g_vectors, gradient_.data());
        });
        for (int l = layers_ - 1; l >= 0; l--) {
            hand_out(exchange, gradient_[l].s, 1);
            hand_out(exchange, gradient_[l].v, 3);
            for_blocks(graph_.atoms, threads_, [&](int64_t start, int64_t stop) {
                if (by_two<T>(F_))
                    back_block<T, 2>(graph_, net_, l, start, stop, gradient_.data(), to_vectors);
                else
                    back_block<T, 1>(graph_, net_, l, start, stop, gradient_.data(), to_vectors);
            });
        }
    }

    double bytes() const {
        double all = room_.memory.size();
        for (const Room<T>& one : memory_) all += one.memory.size();
        return all * sizeof(T);
    }

private:
    int F_, layers_, intervals_;
    double cutoff_;
    Store<T> store_;
    painn::Elements<T> by_element_;
    std::vector<painn::Layer<T>> weights_;
    std::vector<painn::Saved<T>> saved_;
    std::vector<painn::Gradient<T>> gradient_;
    std::vector<Room<T>> memory_;
    Room<T> room_;
    Graph<T> graph_;
    painn::Network<T> net_;
    int64_t held_ = 0;
    int threads_ = 1;

    // An atom's numbers lie behind each other.
    void hand_out(Exchange& exchange, T* data, int components) const {
        exchange.rows(reinterpret_cast<char*>(data), 1, 0, components * F_ * sizeof(T));
    }
};

}  // namespace eip
