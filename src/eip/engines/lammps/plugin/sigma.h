// What becomes of an atom's raw σ (`eip.uncertainty.latent_distance`, `guard`, `calibrated`, and
// `Prediction.with_uncertainty`), for numbers that carry their derivatives along.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "weights.h"

namespace eip {

// A value and its derivatives in raw σ, d², D² and Σ m².
struct Traced {
    double value;
    double slope[4] = {0, 0, 0, 0};

    static Traced of(double value, int which) {
        Traced made{value};
        made.slope[which] = 1;
        return made;
    }
    Traced mapped(double to, double rate) const {
        Traced made{to};
        for (int k = 0; k < 4; k++) made.slope[k] = rate * slope[k];
        return made;
    }
};

inline Traced operator+(const Traced& a, const Traced& b) {
    Traced made{a.value + b.value};
    for (int k = 0; k < 4; k++) made.slope[k] = a.slope[k] + b.slope[k];
    return made;
}
inline Traced operator*(const Traced& a, double b) { return a.mapped(a.value * b, b); }
inline Traced logarithm(const Traced& a) { return a.mapped(std::log(a.value), 1 / a.value); }
inline Traced exponential(const Traced& a) {
    const double e = std::exp(a.value);
    return a.mapped(e, e);
}
inline Traced root(const Traced& a) {
    const double r = std::sqrt(a.value);
    return a.mapped(r, r > 0 ? 0.5 / r : 0.0);
}
inline Traced square(const Traced& a) { return a.mapped(a.value * a.value, 2 * a.value); }

inline Traced arsinh(const Traced& a) {
    return a.mapped(std::asinh(a.value), 1 / std::sqrt(1 + a.value * a.value));
}

class Layers {
public:
    explicit Layers(const Weights& file)
        : latent_(file.has("latent.powers")), guarded_(file.has("latent.guard")),
          calibrated_(file.has("calibration.factors")) {
        if (latent_) {
            powers_ = file.doubles("latent.powers");
            reference_ = file.number("latent.reference");
        }
        if (guarded_) {
            guard_ = file.doubles("latent.guard");
            strength_ = file.number("latent.strength");
            onset_ = file.number("latent.onset");
        }
        if (!calibrated_) return;
        factors_ = file.doubles("calibration.factors");
        knots_ = file.doubles("calibration.knots");
    }

    bool latent() const { return latent_; }
    bool guarded() const { return guarded_; }

    // σ of one atom, eV/Å.
    Traced sigma(int64_t species, double raw, double own, double around, double missing) const {
        const Traced m = Traced::of(missing, 3);
        Traced sigma = widened(Traced::of(raw, 0), m);
        if (latent_) {
            const Traced d = Traced::of(own, 1), D = Traced::of(around, 2);
            sigma.value = std::max(sigma.value, TINY);
            if (!(powers_[0] == 1 && powers_[1] == 0 && powers_[2] == 0))
                sigma = exponential(logarithm(sigma * (1 / reference_)) * powers_[0] +
                                    logarithm(d) * (0.5 * powers_[1]) + logarithm(D) * (0.5 * powers_[2])) *
                        reference_;
            if (guarded_) {
                const double* of_atom = guard_.data() + 3 * species;
                const Traced beyond = excess(root(d * of_atom[0])) + excess(root(D * of_atom[1]));
                const Traced added = arsinh(beyond * (2 * strength_)) * (0.5 * of_atom[2]);
                sigma = root(square(sigma) + square(added));
            }
            sigma = widened(sigma, m);
        }
        if (calibrated_) sigma = widened(mapped(sigma) * factors_[species], m);
        return sigma;
    }

    // Extrapolation grade.
    double grade(int64_t species, double own, double around, double nearness) const {
        const double* of_atom = guard_.data() + 3 * species;
        return std::max(nearness, std::sqrt(std::max(own * of_atom[0], around * of_atom[1])));
    }

private:
    // Of the network's float32, below which it divides by this.
    static constexpr double TINY = std::numeric_limits<float>::min();

    bool latent_, guarded_, calibrated_;
    double reference_ = 1, strength_ = 0, onset_ = 1;
    std::vector<double> powers_, guard_, factors_, knots_;

    // k of the guard: 0 up to 1, then rising towards x − 1.
    Traced excess(const Traced& x) const {
        const double u = std::max(0.0, x.value - 1), below = u * u + onset_;
        return x.mapped(u - u * onset_ / below, u > 0 ? 1 - onset_ * (onset_ - u * u) / (below * below) : 0.0);
    }

    // Never below the slope of a repulsion that no frame shows.
    static Traced widened(const Traced& sigma, const Traced& missing) {
        return root(square(sigma) + missing);
    }

    // g of the isotonic method: linear between knots, proportional to σ beyond.
    Traced mapped(const Traced& sigma) const {
        const size_t count = knots_.size() / 2;
        if (count == 0) return sigma;
        const double* k = knots_.data();
        const double low = k[0], high = k[2 * (count - 1)];
        if (count == 1 || sigma.value <= low) return sigma * (k[1] / low);
        if (sigma.value >= high) return sigma * (k[2 * count - 1] / high);
        size_t upper = 1;
        while (upper < count - 1 && k[2 * upper] < sigma.value) upper++;
        const double *a = k + 2 * (upper - 1), *b = k + 2 * upper;
        const double slope = (b[1] - a[1]) / (b[0] - a[0]);
        return sigma.mapped(a[1] + slope * (sigma.value - a[0]), slope);
    }
};

}  // namespace eip
