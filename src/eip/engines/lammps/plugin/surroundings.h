// What an engine that divides space among processes gives a potential, and what it is asked for.
#pragma once

#include <cstdint>

namespace eip {

// The atoms of one process: its own first, then copies of those of others (ghosts) within one cutoff.
struct Surroundings {
    int64_t own, held;
    const int64_t* species;    // [held], in the model's order of elements
    const int64_t* first;      // [own + 1]: where each own atom's edges begin
    const int64_t* neighbors;  // [edges]: among all that are held
    const double* vectors;     // [edges, 3], from centre to neighbor, Å
    int threads;

    int64_t edges() const { return first[own]; }
};

// Gives the rows of ghosts what their owners have in theirs. Component k of atom i is `row` bytes at
// data + k · stride + i · row.
class Exchange {
public:
    virtual void rows(char* data, int components, int64_t stride, int64_t row) = 0;

protected:
    ~Exchange() = default;  // nobody owns one
};

}  // namespace eip
