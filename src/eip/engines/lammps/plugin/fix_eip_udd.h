// fix ID all eip/udd A B C D [limiter] [hover GRADE] [memory TIME]: uncertainty-driven dynamics
// (theory §5, `eip.simulation.bias`).
#pragma once

#include <vector>

#include "fix.h"

namespace LAMMPS_NS {

class FixEIPUDD : public Fix {
public:
    FixEIPUDD(class LAMMPS* lmp, int narg, char** arg);
    ~FixEIPUDD() override;

    int setmask() override;
    void init() override;
    void setup(int vflag) override;
    void post_force(int vflag) override;
    double compute_scalar() override;
    double compute_vector(int n) override;
    int pack_reverse_comm(int n, int first, double* buffer) override;
    void unpack_reverse_comm(int n, int* list, double* buffer) override;
    double memory_usage() override;

    // The mean over the memory goes where its atom goes, and into restart files.
    void grow_arrays(int atoms) override;
    void copy_arrays(int from, int to, int) override;
    void set_arrays(int i) override;
    int pack_exchange(int i, double* buffer) override;
    int unpack_exchange(int i, double* buffer) override;
    int pack_restart(int i, double* buffer) override;
    void unpack_restart(int i, int which) override;
    int size_restart(int) override { return 4; }
    int maxsize_restart() override { return 4; }

private:
    enum class Limiter { global, atom, component, saturating } limiter_ = Limiter::global;
    double A_, B_, C_, D_;
    class PairEIP* pair_ = nullptr;
    std::vector<double> bias_;  // ∂(Σ σ_i)/∂R, then the force, [nlocal + nghost, 3]
    double** mean_ = nullptr;   // of the limited force, where there is a memory
    double energy_ = 0, sigma_ = 0, largest_ = 0;
    double hover_ = 0, memory_ = 0;  // 0: none
    bool begun_ = false;

    void find_bias();
    void add_bias();
    void limit();
    void turn_round();
    void remember();
    double largest() const;
};

}  // namespace LAMMPS_NS
