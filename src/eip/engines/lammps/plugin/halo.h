// Which rows of a network a process holds: those of its own atoms, and of atoms of other processes that own
// atoms see; and how the latter are filled.
//
// LAMMPS keeps a ghost for each image of an atom. Here all images of an atom are one row, and those of
// an own atom are its own: numbers of atoms do not depend on where an image lies. So a process alone has nothing to
// exchange, and several exchange what is needed once.
#pragma once

#include <mpi.h>

#include <cstdint>
#include <vector>

#include "surroundings.h"

namespace eip {

class Halo : public Exchange {
public:
    // Where an atom is at home: which process, and which of its own atoms.
    struct Place {
        int process, index;
    };

    ~Halo();

    // All processes together. `places`: of own atoms and ghosts; `seen`: whether an own atom sees it.
    void find(MPI_Comm world, int own, const std::vector<Place>& places, const std::vector<char>& seen);

    int64_t held() const { return own_ + static_cast<int64_t>(atoms_.size()); }
    // Of an own atom or a ghost that is seen.
    int64_t row_of(int atom) const { return rows_[atom]; }
    // One of the ghosts that stand for a row behind the own ones.
    int atom_of(int64_t row) const { return row < own_ ? static_cast<int>(row) : atoms_[row - own_]; }

    void rows(char* data, int components, int64_t stride, int64_t row) override;
    double bytes() const;

private:
    // Rows that go to a process, and those that come from it, one behind the other.
    struct Peer {
        int process;
        std::vector<int> sent;
        int64_t first, count;
    };

    MPI_Comm world_ = MPI_COMM_NULL;
    int64_t own_ = 0;
    std::vector<int64_t> rows_;
    std::vector<int> atoms_;
    std::vector<Peer> peers_;
    std::vector<std::vector<char>> sent_;
};

}  // namespace eip
