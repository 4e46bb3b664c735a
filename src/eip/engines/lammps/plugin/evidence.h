// Raw σ of each atom's force, from the tensor head's evidence (theory §2), and its gradient.
#pragma once

#include "packing.h"
#include "surroundings.h"

extern "C" {
#define EIP_TENSOR_HEAD(T, SUFFIX)                                                                  \
    void eip_tensor_head_##SUFFIX(int64_t atoms, int64_t F, int64_t rank, int64_t width,            \
                                  const T* scalars, const T* vectors, const T* lengths,             \
                                  const T* directions, const T* hidden, const T* hidden_bias,       \
                                  const T* out, const T* out_bias, T* nu, T* alpha, double* beta,   \
                                  int64_t threads);
EIP_TENSOR_HEAD(float, f32)
EIP_TENSOR_HEAD(double, f64)
#undef EIP_TENSOR_HEAD
}

namespace eip {

template <class... A>
void tensor_head(int64_t atoms, int64_t F, int64_t rank, int64_t width, const float* scalars, A... rest) {
    eip_tensor_head_f32(atoms, F, rank, width, scalars, rest...);
}
template <class... A>
void tensor_head(int64_t atoms, int64_t F, int64_t rank, int64_t width, const double* scalars, A... rest) {
    eip_tensor_head_f64(atoms, F, rank, width, scalars, rest...);
}

template <class T>
class Evidence {
public:
    explicit Evidence(const Weights& file)
        : some_(file.has("head.out")), F_(static_cast<int>(file.whole("channels"))) {
        if (!some_) return;
        constexpr int L = Simd<T>::LANES;
        scale_ = file.number("head.scale");
        rank_ = static_cast<int>(file.array("head.directions").shape[0]);
        width_ = (rank_ + 3 + L - 1) / L * L;
        const auto both = [&](const char* name, int filled, int in, const T*& there, const T*& back) {
            std::vector<T> weight = file.values<T>(name);
            weight.resize(static_cast<size_t>(filled) * in, T(0));
            there = forward_panels(store_, weight, filled, in);
            back = backward_panels(store_, weight, filled, in);
        };
        both("head.lengths", F_, F_, lengths_, lengths_back_);
        both("head.directions", width_, F_, directions_, directions_back_);
        both("head.hidden", F_, 2 * F_, hidden_, hidden_back_);
        both("head.out", width_, F_, out_, out_back_);
        std::vector<T> bias = file.values<T>("head.out_bias");
        bias.resize(width_, T(0));
        out_bias_ = store_.copy(bias);
        hidden_bias_ = store_.copy(file.values<T>("head.hidden_bias"));
    }

    explicit operator bool() const { return some_; }

    // Raw σ, eV/Å.
    void forward(const Surroundings& atoms, const T* scalars, const T* vectors, double* raw) {
        nu_.resize(atoms.own);
        alpha_.resize(atoms.own);
        beta_.resize(9 * atoms.own);
        tensor_head(atoms.own, F_, rank_, width_, scalars, vectors, lengths_, directions_, hidden_,
                    hidden_bias_, out_, out_bias_, nu_.data(), alpha_.data(), beta_.data(),
                    static_cast<int64_t>(atoms.threads));
        for (int64_t i = 0; i < atoms.own; i++)
            raw[i] = scale_ * std::sqrt(size_of_beta(i) / (alpha_[i] - T(1))) / std::sqrt(double(nu_[i]));
    }

    // Adds to g_scalars [own, F] and g_vectors [own, 3, F] the gradient of Σ g_raw · raw.
    void backward(const Surroundings& atoms, const T* scalars, const T* vectors, const double* g_raw,
                  T* g_scalars, T* g_vectors) const {
#pragma omp parallel for schedule(dynamic, 8) num_threads(atoms.threads)
        for (int64_t i = 0; i < atoms.own; i++) {
            static thread_local Room<T> room;
            back_of_atom(i, scalars + i * F_, vectors + i * 3 * F_, g_raw[i], g_scalars + i * F_,
                         g_vectors + i * 3 * F_, room);
        }
    }

private:
    bool some_;
    int F_, rank_ = 0, width_ = 0;
    double scale_ = 0;
    Store<T> store_;
    const T *lengths_, *lengths_back_, *directions_, *directions_back_, *hidden_, *hidden_back_;
    const T *hidden_bias_, *out_, *out_back_, *out_bias_;
    std::vector<T> nu_, alpha_;
    std::vector<double> beta_;

    double size_of_beta(int64_t i) const {
        double sum = 0;
        for (int k = 0; k < 9; k++) sum += beta_[9 * i + k] * beta_[9 * i + k];
        return std::sqrt(sum);
    }

    static double softplus(double x) { return x > 20 ? x : std::log1p(std::exp(x)); }
    static double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

    void back_of_atom(int64_t i, const T* s, const T* v, double g, T* g_s, T* g_v, Room<T>& room) const {
        constexpr int L = Simd<T>::LANES;
        const int F = F_, W = width_;
        T* mixed = room.take(16 * F + 8 * W);
        T *both = mixed + 3 * F, *pre = both + 2 * F, *active = pre + F, *raw = active + F;
        T *u = raw + W, *g_raw = u + 3 * W, *g_u = g_raw + W;
        T *g_active = g_u + 3 * W, *g_both = g_active + F, *g_mixed = g_both + 2 * F, *more = g_mixed + 3 * F;
        // What the forward pass had.
        matmul<T>(3, F, F, v, F, lengths_, mixed, F, nullptr, Start::zero);
        std::copy_n(s, F, both);
        for (int f = 0; f < F; f++)
            both[F + f] = std::sqrt(mixed[f] * mixed[f] + mixed[F + f] * mixed[F + f] +
                                    mixed[2 * F + f] * mixed[2 * F + f] + T(NORM_EPSILON));
        matmul<T>(1, F, 2 * F, both, 2 * F, hidden_, pre, F, hidden_bias_, Start::bias);
        for (int f = 0; f < F; f += L) store<T>(active + f, silu<T>(load(pre + f)));
        matmul<T>(1, W, F, active, F, out_, raw, W, out_bias_, Start::bias);
        matmul<T>(3, W, F, v, F, directions_, u, W, nullptr, Start::zero);
        // σ = scale · ‖B‖^½ / (ν (α − 1))^½
        const double size = size_of_beta(i), excess = alpha_[i] - T(1);
        const double sigma = scale_ * std::sqrt(size / (excess * nu_[i]));
        double to_beta[9], trace = 0;
        for (int k = 0; k < 9; k++) to_beta[k] = g * sigma * beta_[9 * i + k] / (2 * size * size);
        for (int k = 0; k < 9; k += 4) trace += to_beta[k];
        std::fill_n(g_raw, 4 * W, T(0));
        g_raw[0] = static_cast<T>(-0.5 * g * sigma / nu_[i] * sigmoid(raw[0]));
        g_raw[1] = static_cast<T>(-0.5 * g * sigma / excess * sigmoid(raw[1]));
        g_raw[2] = static_cast<T>(trace * sigmoid(raw[2]));
        for (int m = 0; m < rank_; m++) {
            double along[3], square = 0;
            for (int p = 0; p < 3; p++) {
                along[p] = 0;
                for (int q = 0; q < 3; q++) along[p] += to_beta[3 * p + q] * u[q * W + m];
                square += along[p] * u[p * W + m];
            }
            g_raw[3 + m] = static_cast<T>(square * sigmoid(raw[3 + m]));
            const double weight = softplus(raw[3 + m]);
            for (int p = 0; p < 3; p++) g_u[p * W + m] = static_cast<T>(2 * weight * along[p]);
        }
        matmul<T>(1, F, W, g_raw, W, out_back_, g_active, F, nullptr, Start::zero);
        for (int f = 0; f < F; f += L)
            store<T>(g_active + f, load(g_active + f) * silu_slope<T>(load(pre + f)));
        matmul<T>(1, 2 * F, F, g_active, F, hidden_back_, g_both, 2 * F, nullptr, Start::zero);
        for (int k = 0; k < 3; k++)
            for (int f = 0; f < F; f++) g_mixed[k * F + f] = g_both[F + f] * mixed[k * F + f] / both[F + f];
        for (int f = 0; f < F; f++) g_s[f] += g_both[f];
        matmul<T>(3, F, F, g_mixed, F, lengths_back_, more, F, nullptr, Start::zero);
        matmul<T>(3, F, W, g_u, W, directions_back_, more, F, nullptr, Start::add);
        for (int k = 0; k < 3 * F; k++) g_v[k] += more[k];
    }
};

}  // namespace eip
