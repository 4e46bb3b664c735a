// From an atom's scalars to its energy, and back (`eip.models.energy.readout`).
#pragma once

#include "packing.h"

namespace eip {

template <class T>
class Readout {
public:
    explicit Readout(const Weights& file) : F_(static_cast<int>(file.whole("channels"))) {
        constexpr int L = Simd<T>::LANES;
        const std::vector<T> hidden = file.values<T>("readout.hidden");
        const int narrow = static_cast<int>(file.array("readout.hidden").shape[0]);
        // In whole vectors; what is added has weight 0 on the way out.
        width_ = (narrow + L - 1) / L * L;
        std::vector<T> bias = file.values<T>("readout.hidden_bias");
        std::vector<T> out = file.values<T>("readout.out");
        const T scale = static_cast<T>(file.number("force_scale"));
        for (T& one : out) one *= scale;
        bias.resize(width_);
        out.resize(width_);
        std::vector<T> all(hidden);
        all.resize(static_cast<size_t>(width_) * F_, T(0));
        hidden_ = forward_panels(store_, all, width_, F_);
        back_ = backward_panels(store_, all, width_, F_);
        bias_ = store_.copy(bias);
        out_ = store_.copy(out);
        constant_ = scale * file.values<T>("readout.out_bias").at(0);
        offsets_ = file.doubles("element_energies");
    }

    // Energy of each atom, eV, and the gradient in its scalars, which may take their place.
    void run(const Surroundings& atoms, const T* scalars, double* energy, T* g_scalars) const {
        constexpr int64_t SIZE = 24;
        constexpr int L = Simd<T>::LANES;
        const int64_t blocks = (atoms.own + SIZE - 1) / SIZE;
#pragma omp parallel for schedule(dynamic, 1) num_threads(atoms.threads)
        for (int64_t b = 0; b < blocks; b++) {
            static thread_local Room<T> room;
            const int64_t start = b * SIZE, stop = std::min(atoms.own, start + SIZE);
            const int rows = static_cast<int>(stop - start);
            T* pre = room.take(static_cast<size_t>(rows) * width_);
            matmul<T>(rows, width_, F_, scalars + start * F_, F_, hidden_, pre, width_, bias_, Start::bias);
            for (int i = 0; i < rows; i++) {
                double sum = constant_;
                for (int c = 0; c < width_; c += L) {
                    T* at = pre + static_cast<int64_t>(i) * width_ + c;
                    const vec<T> x = load(at), weight = load(out_ + c);
                    const vec<T> term = weight * silu<T>(x);
                    for (int l = 0; l < L; l++) sum += term[l];
                    store<T>(at, weight * silu_slope<T>(x));
                }
                energy[start + i] = sum + offsets_[atoms.species[start + i]];
            }
            matmul<T>(rows, F_, width_, pre, width_, back_, g_scalars + start * F_, F_, nullptr, Start::zero);
        }
    }

private:
    int F_, width_;
    Store<T> store_;
    const T *hidden_, *back_, *bias_, *out_;
    double constant_;
    std::vector<double> offsets_;
};

}  // namespace eip
