// d² of each atom and D² of its surroundings in latent space (theory §6), and their gradient.
#pragma once

#include "packing.h"
#include "surroundings.h"

extern "C" {
#define EIP_LATENT(T, SUFFIX)                                                                       \
    void eip_invariants_##SUFFIX(int64_t atoms, int64_t F, const T* scalars, const T* vectors, T* out); \
    void eip_squared_distance_##SUFFIX(int64_t atoms, int64_t width, int64_t kinds, const T* x,     \
                                       const int64_t* species, const T* means, const T* whitening,  \
                                       double epsilon, T* own, int64_t threads);
EIP_LATENT(float, f32)
EIP_LATENT(double, f64)
#undef EIP_LATENT
}

namespace eip {

inline void invariants(int64_t atoms, int64_t F, const float* s, const float* v, float* out) {
    eip_invariants_f32(atoms, F, s, v, out);
}
inline void invariants(int64_t atoms, int64_t F, const double* s, const double* v, double* out) {
    eip_invariants_f64(atoms, F, s, v, out);
}
template <class... A>
void squared_distance(int64_t atoms, int64_t width, int64_t kinds, const float* x, A... rest) {
    eip_squared_distance_f32(atoms, width, kinds, x, rest...);
}
template <class... A>
void squared_distance(int64_t atoms, int64_t width, int64_t kinds, const double* x, A... rest) {
    eip_squared_distance_f64(atoms, width, kinds, x, rest...);
}

template <class T>
class Distance {
public:
    explicit Distance(const Weights& file)
        : some_(file.has("latent.means")), F_(static_cast<int>(file.whole("channels"))),
          cutoff_(file.number("cutoff")) {
        if (!some_) return;
        epsilon_ = file.number("latent.epsilon");
        const std::vector<T> means = file.values<T>("latent.means");
        kinds_ = file.array("latent.means").shape[0];
        width_ = static_cast<int>(means.size() / kinds_);
        means_ = store_.copy(means);
        const std::vector<T> all = file.values<T>("latent.whitening");
        // One behind the other, as the kernel wants them.
        const size_t one = static_cast<size_t>(width_) * width_;
        T *there = store_.take(all.size()), *back = store_.take(all.size());
        for (int64_t k = 0; k < kinds_; k++) {
            pack(all.data() + k * one, width_, width_, width_, 1, there + k * one);
            pack(all.data() + k * one, width_, width_, 1, width_, back + k * one);
        }
        whitening_ = there;
        whitening_back_ = back;
    }

    explicit operator bool() const { return some_; }

    // own: d² of all that are held; around: D² of the own.
    void forward(const Surroundings& atoms, const T* scalars, const T* vectors, Exchange& exchange,
                 std::vector<double>& own, std::vector<double>& around) {
        constexpr int64_t SOME = 256;  // of whom features are there at a time
        T* features = room_.take(SOME * (width_ + 1));
        T* found = features + SOME * width_;
        own.resize(atoms.held);
        around.resize(atoms.own);
        weight_.resize(atoms.own);
        for (int64_t start = 0; start < atoms.own; start += SOME) {
            const int64_t count = std::min(SOME, atoms.own - start);
            invariants(count, F_, scalars + start * F_, vectors + start * 3 * F_, features);
            squared_distance(count, width_, kinds_, features, atoms.species + start, means_, whitening_,
                             epsilon_, found, static_cast<int64_t>(atoms.threads));
            std::copy_n(found, count, own.begin() + start);
        }
        hand_out(exchange, own.data());
        for (int64_t i = 0; i < atoms.own; i++) {
            double total = own[i], weight = 1;
            for (int64_t e = atoms.first[i]; e < atoms.first[i + 1]; e++) {
                double d[3];
                atoms.vector(i, e, d);
                const double left = left_of(d);
                total += left * left * own[atoms.neighbors[e]];
                weight += left * left;
            }
            weight_[i] = weight;
            around[i] = total / weight;
        }
    }

    // From the gradient in d² and D² of the own atoms: adds to that in scalars, vectors and edges' vectors.
    void backward(const Surroundings& atoms, const T* scalars, const T* vectors, Exchange& exchange,
                  const std::vector<double>& own, const std::vector<double>& around,
                  const std::vector<double>& g_own, const std::vector<double>& g_around, T* g_scalars,
                  T* g_vectors, T* to_vectors) const {
        // The list is full: an atom gathers from those whose D² it is part of.
        std::vector<double> share(atoms.held);
        for (int64_t i = 0; i < atoms.own; i++) share[i] = g_around[i] / weight_[i];
        hand_out(exchange, share.data());
#pragma omp parallel for schedule(dynamic, 8) num_threads(atoms.threads)
        for (int64_t i = 0; i < atoms.own; i++) {
            double g = g_own[i] + share[i];
            for (int64_t e = atoms.first[i]; e < atoms.first[i + 1]; e++) {
                double d[3];
                atoms.vector(i, e, d);
                const double left = left_of(d);
                const int64_t j = atoms.neighbors[e];
                g += left * left * share[j];
                const double slope =
                    share[i] * (own[j] - around[i]) * 2 * left * (-2 / (cutoff_ * cutoff_));
                for (int k = 0; k < 3; k++) to_vectors[3 * e + k] += static_cast<T>(slope * d[k]);
            }
            back_of_atom(atoms.species[i], scalars + i * F_, vectors + i * 3 * F_, g, g_scalars + i * F_,
                         g_vectors + i * 3 * F_);
        }
    }

private:
    bool some_;
    int F_, width_ = 0;
    int64_t kinds_ = 0;
    double cutoff_, epsilon_ = 0;
    Store<T> store_;
    const T *means_, *whitening_, *whitening_back_;
    Room<T> room_;
    std::vector<double> weight_;

    double left_of(const double* d) const {
        return std::max(0.0, 1 - (d[0] * d[0] + d[1] * d[1] + d[2] * d[2]) / (cutoff_ * cutoff_));
    }

    static void hand_out(Exchange& exchange, double* data) {
        exchange.rows(reinterpret_cast<char*>(data), 1, 0, sizeof(double));
    }

    void back_of_atom(int64_t species, const T* s, const T* v, double g, T* g_s, T* g_v) const {
        static thread_local Room<T> room;
        const size_t one = static_cast<size_t>(width_) * width_;
        const T* mean = means_ + species * width_;
        T *away = room.take(4 * width_), *white = away + width_, *g_x = white + width_, *x = g_x + width_;
        invariants(1, F_, s, v, x);
        for (int c = 0; c < width_; c++) away[c] = x[c] - mean[c];
        matmul<T>(1, width_, width_, away, width_, whitening_ + species * one, white, width_, nullptr,
                  Start::zero);
        for (int c = 0; c < width_; c++) white[c] *= static_cast<T>(2 * g / width_);
        matmul<T>(1, width_, width_, white, width_, whitening_back_ + species * one, g_x, width_, nullptr,
                  Start::zero);
        for (int f = 0; f < F_; f++) {
            g_s[f] += g_x[f];
            for (int k = 0; k < 3; k++) g_v[k * F_ + f] += g_x[F_ + f] * v[k * F_ + f] / x[F_ + f];
        }
    }
};

}  // namespace eip
