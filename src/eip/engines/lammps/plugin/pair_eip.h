// pair_style eip: energies, forces, virial, and σ and extrapolation grade of each atom's force.
#pragma once

#include <memory>
#include <vector>

#include "halo.h"
#include "pair.h"
#include "potential.h"

namespace LAMMPS_NS {

class PairEIP : public Pair {
public:
    explicit PairEIP(class LAMMPS* lmp);
    ~PairEIP() override;

    void compute(int eflag, int vflag) override;
    void settings(int narg, char** arg) override;
    void coeff(int narg, char** arg) override;
    void init_style() override;
    double init_one(int i, int j) override;
    void setup() override;
    int pack_forward_comm(int n, int* list, double* buffer, int, int*) override;
    void unpack_forward_comm(int n, int first, double* buffer) override;
    void* extract(const char* name, int& dim) override;
    void* extract_peratom(const char* name, int& columns) override;
    double memory_usage() override;

    bool has_sigma() const { return potential_ && potential_->has_sigma(); }
    bool has_grade() const { return potential_ && potential_->has_grade(); }
    // Asks for the gradient of Σ σ_i at each step of the next run, for whoever reads it after the forces.
    void want_gradient_of_sigma() { gradient_wanted_ = true; }
    double mean_sigma() const { return mean_sigma_; }
    double largest_grade() const { return largest_grade_; }
    // ∂(Σ σ_i)/∂R of own atoms and ghosts, [nlocal + nghost, 3]; ghosts' are for their owners.
    const std::vector<double>& gradient_of_sigma() const { return gradient_of_sigma_; }

private:
    std::unique_ptr<eip::Potential> potential_;
    std::vector<int64_t> kind_of_type_;
    std::vector<int64_t> species_, first_, neighbors_;
    std::vector<int> atoms_of_edges_;  // the neighbors as LAMMPS counts them, ghosts by their images
    std::vector<double> sigma_, grade_, gradient_of_sigma_;
    eip::Answer answer_;
    double mean_sigma_ = 0, largest_grade_ = 0;
    bool gradient_wanted_ = false, compute_pair_ = false;
    // A field of fix pair is worked out where its trigger says so, or always where it has none.
    int sigma_trigger_ = 0, grade_trigger_ = 0;
    bool asked_ = false, triggered_ = false;

    struct Neighbor {
        tagint tag;
        int j;
        double d[3];

        bool operator<(const Neighbor& other) const;
    };
    std::vector<Neighbor> sorted_;
    eip::Halo halo_;
    std::vector<eip::Halo::Place> places_;

    void allocate();
    void sort_list(double** x);
    void list_edges(double** x);
    void add_forces(double** f);
    void tally(int eflag);
    void summarize();
    void check_finite();
};

}  // namespace LAMMPS_NS
