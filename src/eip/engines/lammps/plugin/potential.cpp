#include "potential.h"

#include <numeric>

#include "ace.h"
#include "distance.h"
#include "evidence.h"
#include "painn_ranks.h"
#include "readout.h"
#include "short_range.h"
#include "sigma.h"

namespace eip {
namespace {

template <class T, template <class> class Network>
class Made : public Potential {
public:
    explicit Made(const Weights& file)
        : cutoff_(file.number("cutoff")), elements_(words(file.text("elements"))), network_(file),
          readout_(file), short_range_(file), evidence_(file), distance_(file), layers_(file) {}

    double cutoff() const override { return cutoff_; }
    const std::vector<std::string>& elements() const override { return elements_; }
    bool has_sigma() const override { return static_cast<bool>(evidence_); }
    bool has_grade() const override { return layers_.guarded(); }
    double bytes() const override {
        return network_.bytes() + sizeof(T) * (told_.capacity() + features_.memory.size() + g_scalars_.capacity() +
                                               g_vectors_.capacity());
    }

    void evaluate(const Surroundings& atoms, const Asked& asked, Exchange& exchange, Answer& answer) override {
        const int64_t F = network_.channels(), size = atoms.own * F;
        T* scalars = features_.take(4 * size);
        const Features features{scalars, scalars + size};
        short_range_.tell(atoms, told_);
        network_.forward(atoms, told_.data(), exchange, features.scalars, features.vectors);

        // What σ needs of the features comes before the way back, which takes their place if it is gone once.
        answer.has_sigma = has_sigma() && (asked.sigma || asked.gradient_of_sigma);
        const bool twice = answer.has_sigma && asked.gradient_of_sigma;
        std::vector<double> slopes[4];
        if (answer.has_sigma) uncertainty(atoms, features, twice, exchange, answer, slopes);
        if (twice) g_scalars_.resize(size);
        T* g_scalars = twice ? g_scalars_.data() : scalars;
        answer.energy.resize(atoms.own);
        readout_.run(atoms, scalars, answer.energy.data(), g_scalars);
        std::vector<T>& to_vectors = answer.to_vectors.template in<T>();
        back(g_scalars, nullptr, twice ? nullptr : scalars, exchange, to_vectors);
        short_range_.finish(atoms, answer.energy.data(), to_vectors.data());
        if (twice) gradient_of_sigma(atoms, features, slopes, exchange, answer.to_vectors_of_sigma.template in<T>());
    }

private:
    double cutoff_;
    std::vector<std::string> elements_;
    Network<T> network_;
    Readout<T> readout_;
    ShortRange short_range_;
    Evidence<T> evidence_;
    Distance<T> distance_;
    Layers layers_;
    struct Features {
        T *scalars, *vectors;
    };
    Room<T> features_;
    std::vector<T> told_, g_scalars_, g_vectors_;
    std::vector<double> raw_, own_, around_, missing_, nearness_;

    // The gradient in what the network is told of the edges.
    void back(const T* g_scalars, const T* g_vectors, T* spent, Exchange& exchange, std::vector<T>& to) {
        to.assign(told_.size(), T(0));
        network_.backward(g_scalars, g_vectors, spent, exchange, to.data());
    }

    // slopes: of each σ_i in raw σ, d², D² and Σ m².
    void uncertainty(const Surroundings& atoms, const Features& features, bool gradient, Exchange& exchange,
                     Answer& answer, std::vector<double>* slopes) {
        raw_.resize(atoms.own);
        evidence_.forward(atoms, features.scalars, features.vectors, raw_.data());
        own_.assign(atoms.own, 1.0);
        around_.assign(atoms.own, 1.0);
        if (distance_) distance_.forward(atoms, features.scalars, features.vectors, exchange, own_, around_);
        missing_.assign(atoms.own, 0.0);
        nearness_.assign(atoms.own, 0.0);
        for (const Close& one : short_range_.close()) {
            missing_[one.center] += one.missing * one.missing;
            nearness_[one.center] = std::max(nearness_[one.center], one.nearness);
        }
        if (gradient)
            for (int k = 0; k < 4; k++) slopes[k].resize(atoms.own);
        answer.sigma.resize(atoms.own);
        if (has_grade()) answer.grade.resize(atoms.own);
        for (int64_t i = 0; i < atoms.own; i++) {
            const int64_t kind = atoms.species[i];
            const Traced sigma = layers_.sigma(kind, raw_[i], own_[i], around_[i], missing_[i]);
            answer.sigma[i] = sigma.value;
            if (has_grade()) answer.grade[i] = layers_.grade(kind, own_[i], around_[i], nearness_[i]);
            if (gradient)
                for (int k = 0; k < 4; k++) slopes[k][i] = sigma.slope[k];
        }
    }

    void gradient_of_sigma(const Surroundings& atoms, const Features& features, const std::vector<double>* slopes,
                           Exchange& exchange, std::vector<T>& to) {
        const size_t size = atoms.own * network_.channels();
        g_scalars_.assign(size, T(0));
        g_vectors_.assign(3 * size, T(0));
        std::vector<T> direct(3 * atoms.edges(), T(0));
        evidence_.backward(atoms, features.scalars, features.vectors, slopes[0].data(), g_scalars_.data(),
                           g_vectors_.data());
        if (distance_)
            distance_.backward(atoms, features.scalars, features.vectors, exchange, own_, around_, slopes[1],
                               slopes[2], g_scalars_.data(), g_vectors_.data(), direct.data());
        back(g_scalars_.data(), g_vectors_.data(), features.scalars, exchange, to);
        for (const Close& one : short_range_.close()) {
            ShortRange::of_told(one, to.data());
            const double rate = slopes[3][one.center] * 2 * one.missing * one.missing_slope;
            for (int k = 0; k < 3; k++) to[3 * one.edge + k] += static_cast<T>(rate * one.direction[k]);
        }
        for (size_t k = 0; k < to.size(); k++) to[k] += direct[k];
    }
};

template <template <class> class Network>
std::unique_ptr<Potential> in_precision(const Weights& file) {
    if (file.array("embedding").kind == Kind::float32) return std::make_unique<Made<float, Network>>(file);
    return std::make_unique<Made<double, Network>>(file);
}

}  // namespace

std::unique_ptr<Potential> make_potential(std::vector<char> content) {
    const Weights file(std::move(content));
    const std::string network = file.text("network");
    if (network == "cartesian_ace") return in_precision<Ace>(file);
    if (network == "painn") return in_precision<PaiNN>(file);
    throw std::runtime_error("holds a network that this plugin does not know: " + network);
}

}  // namespace eip
