// What an engine that divides space among processes gives a potential, and what it is asked for.
#pragma once

#include <cstdint>

namespace eip {

// The atoms of one process: its own first, then copies of those of others within one cutoff. Images of an
// atom are one.
struct Surroundings {
    int64_t own, held;
    const int64_t* species;    // [held], in the model's order of elements
    const int64_t* first;      // [own + 1]: where each own atom's edges begin
    const int64_t* neighbors;  // [edges]: among all that are held
    const int* images;         // [edges]: the neighbors among positions
    const double* const* positions;  // of own atoms, then of images, Å
    int threads;

    int64_t edges() const { return first[own]; }

    // From the centre of an edge to its neighbor, Å.
    void vector(int64_t centre, int64_t edge, double* d) const {
        const double *from = positions[centre], *to = positions[images[edge]];
        for (int k = 0; k < 3; k++) d[k] = to[k] - from[k];
    }
};

// Gives the rows behind the own ones what their owners have in theirs. Component k of atom i is `row` bytes at
// data + k · stride + i · row.
class Exchange {
public:
    virtual void rows(char* data, int components, int64_t stride, int64_t row) = 0;

protected:
    ~Exchange() = default;  // nobody owns one
};

}  // namespace eip
