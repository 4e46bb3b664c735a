// Closer than any training frame has two atoms (theory §8, `eip.models.short_range`): what the network is told
// of their distance, and the repulsion of the nuclei in its place. In double, whatever the network is in.
#pragma once

#include <cmath>
#include <vector>

#include "surroundings.h"
#include "weights.h"

namespace eip {

// An edge shorter than the data begin.
struct Close {
    int64_t edge, center;
    double direction[3];
    double r, s, slope;  // the distance, the one that is told, and its slope s'
    double missing, missing_slope;  // m = (1 − s') |Z'(r)|, and its slope in r
    double nearness;     // b/r
};

class ShortRange {
public:
    explicit ShortRange(const Weights& file) : some_(file.has("short.begins")) {
        if (!some_) return;
        begins_ = file.doubles("short.begins");
        numbers_ = file.doubles("short.numbers");
        width_ = file.number("short.width");
        coulomb_ = file.number("short.coulomb");
        screening_ = file.number("short.screening");
        coefficients_ = file.doubles("short.coefficients");
        exponents_ = file.doubles("short.exponents");
        for (double begin : begins_) longest_ = std::max(longest_, begin);
    }

    const std::vector<Close>& close() const { return close_; }

    // The edges' vectors that the network is told.
    template <class T>
    void tell(const Surroundings& atoms, std::vector<T>& told) {
        told.resize(3 * atoms.edges());
        close_.clear();
        const size_t kinds = numbers_.size();
        for (int64_t i = 0; i < atoms.own; i++)
            for (int64_t e = atoms.first[i]; e < atoms.first[i + 1]; e++) {
                double d[3];
                atoms.vector(i, e, d);
                for (int k = 0; k < 3; k++) told[3 * e + k] = static_cast<T>(d[k]);
                const double square = d[0] * d[0] + d[1] * d[1] + d[2] * d[2];
                if (square >= longest_ * longest_) continue;
                const double begin = begins_[atoms.species[i] * kinds + atoms.species[atoms.neighbors[e]]];
                if (square >= begin * begin) continue;
                Close one;
                one.edge = e;
                one.center = i;
                one.r = std::sqrt(square);
                for (int k = 0; k < 3; k++) one.direction[k] = d[k] / one.r;
                const double length = width_ * begin;
                const double u = std::max(0.0, 1.0 - (begin - one.r) / length);
                const double u2 = u * u, u3 = u2 * u;
                one.s = begin - length * (0.5 - u2 * u2 * (2.5 - 3.0 * u + u2));
                one.slope = u3 * (10.0 - 15.0 * u + 6.0 * u2);
                one.nearness = begin / one.r;
                const Repulsion at_r = repulsion(i, atoms.neighbors[e], atoms, one.r);
                one.missing = (1.0 - one.slope) * at_r.steepness;
                const double bend = 30.0 * u2 * (1.0 - u) * (1.0 - u) / length;
                one.missing_slope = -bend * at_r.steepness - (1.0 - one.slope) * at_r.curvature;
                close_.push_back(one);
                for (int k = 0; k < 3; k++) told[3 * e + k] = static_cast<T>(d[k] * (one.s / one.r));
            }
    }

    // Adds half of each pair's Z(r) − Z(s) to its atom, and makes of the gradient in what was told, which is in
    // to_vectors, that in the true vectors.
    template <class T>
    void finish(const Surroundings& atoms, double* energy, T* to_vectors) const {
        for (const Close& one : close_) {
            const int64_t i = one.center, j = atoms.neighbors[one.edge];
            const Repulsion at_r = repulsion(i, j, atoms, one.r), at_s = repulsion(i, j, atoms, one.s);
            energy[i] += 0.5 * (at_r.energy - at_s.energy);
            of_told(one, to_vectors);
            const double radial = 0.5 * (one.slope * at_s.steepness - at_r.steepness);
            for (int k = 0; k < 3; k++) to_vectors[3 * one.edge + k] += static_cast<T>(radial * one.direction[k]);
        }
    }

    // The gradient in what was told as that in the true vector.
    template <class T>
    static void of_told(const Close& one, T* to_vectors) {
        T* g = to_vectors + 3 * one.edge;
        const double* u = one.direction;
        const double along = g[0] * u[0] + g[1] * u[1] + g[2] * u[2], ratio = one.s / one.r;
        for (int k = 0; k < 3; k++) g[k] = static_cast<T>(ratio * g[k] + (one.slope - ratio) * along * u[k]);
    }

private:
    struct Repulsion {
        double energy, steepness, curvature;  // Z, −Z', Z''
    };

    bool some_;
    double width_ = 0, coulomb_ = 0, screening_ = 0, longest_ = 0;
    std::vector<double> begins_, numbers_, coefficients_, exponents_;
    std::vector<Close> close_;

    Repulsion repulsion(int64_t i, int64_t j, const Surroundings& atoms, double r) const {
        const double zi = numbers_[atoms.species[i]], zj = numbers_[atoms.species[j]];
        const double inverse = (std::pow(zi, 0.23) + std::pow(zj, 0.23)) / screening_;
        double phi = 0, falling = 0, bending = 0;
        for (size_t k = 0; k < coefficients_.size(); k++) {
            const double rate = exponents_[k] * inverse;
            const double term = coefficients_[k] * std::exp(-rate * r);
            phi += term;
            falling += rate * term;
            bending += rate * rate * term;
        }
        const double c = coulomb_ * zi * zj / r;
        return {c * phi, c * (phi / r + falling), c * (2 * phi / (r * r) + 2 * falling / r + bending)};
    }
};

}  // namespace eip
