// A potential as an engine sees it: energies, their gradient, σ, without LAMMPS and without Python.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "surroundings.h"

namespace eip {

// What a potential says of the own atoms of a process.
struct Answer {
    std::vector<double> energy;      // [own], eV
    std::vector<double> to_vectors;  // [edges, 3]: gradient in the edges' vectors, eV/Å
    bool has_sigma = false;          // else it was not asked for, or there is none
    std::vector<double> sigma;       // [own], eV/Å
    std::vector<double> grade;       // [own]
    std::vector<double> to_vectors_of_sigma;  // of Σ σ_i over all atoms of all processes, [edges, 3]
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
    // The most bytes of an atom that are exchanged at a time.
    virtual int exchanged() const = 0;
    // All processes together; `answer` keeps its memory from step to step.
    virtual void evaluate(const Surroundings& atoms, const Asked& asked, Exchange& exchange,
                          Answer& answer) = 0;
    virtual double bytes() const = 0;
};

// Throws std::runtime_error, in words that follow the file's name.
std::unique_ptr<Potential> make_potential(std::vector<char> content);

}  // namespace eip
