// A potential as an engine sees it: energies, their gradient, σ, without LAMMPS and without Python.
#pragma once

#include <memory>
#include <string>
#include <type_traits>
#include <vector>

#include "surroundings.h"

namespace eip {

// Numbers of edges, [edges, 3], in the precision of the network: nothing else of a step is as long.
class OfEdges {
public:
    template <class T>
    std::vector<T>& in() {
        if constexpr (std::is_same_v<T, float>)
            return single_;
        else
            return twofold_;
    }
    // Calls `read` with where they begin.
    template <class Read>
    void with(const Read& read) const {
        if (twofold_.empty())
            read(single_.data());
        else
            read(twofold_.data());
    }
    double bytes() const { return 4.0 * single_.capacity() + 8.0 * twofold_.capacity(); }

private:
    std::vector<float> single_;
    std::vector<double> twofold_;
};

// What a potential says of the own atoms of a process.
struct Answer {
    std::vector<double> energy;      // [own], eV
    OfEdges to_vectors;              // gradient in the edges' vectors, eV/Å
    bool has_sigma = false;          // else it was not asked for, or there is none
    std::vector<double> sigma;       // [own], eV/Å
    std::vector<double> grade;       // [own]
    OfEdges to_vectors_of_sigma;     // of Σ σ_i over all atoms of all processes
};

struct Asked {
    bool sigma = false, gradient_of_sigma = false;
};

class Potential {
public:
    virtual ~Potential() = default;
    virtual double cutoff() const = 0;
    virtual const std::vector<std::string>& elements() const = 0;
    virtual bool has_sigma() const = 0;
    virtual bool has_grade() const = 0;
    // All processes together; `answer` keeps its memory from step to step.
    virtual void evaluate(const Surroundings& atoms, const Asked& asked, Exchange& exchange,
                          Answer& answer) = 0;
    virtual double bytes() const = 0;
};

// Throws std::runtime_error, in words that follow the file's name.
std::unique_ptr<Potential> make_potential(std::vector<char> content);

}  // namespace eip
