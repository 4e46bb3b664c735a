// fix ID all eip/udd A B C D [limiter]: uncertainty-driven dynamics (theory §5, `eip.simulation.bias`).
#pragma once

#include <vector>

#include "fix.h"

namespace LAMMPS_NS {

class FixEIPUDD : public Fix {
public:
    FixEIPUDD(class LAMMPS* lmp, int narg, char** arg);

    int setmask() override;
    void init() override;
    void setup(int vflag) override;
    void post_force(int vflag) override;
    double compute_scalar() override;
    double compute_vector(int n) override;
    int pack_reverse_comm(int n, int first, double* buffer) override;
    void unpack_reverse_comm(int n, int* list, double* buffer) override;
    double memory_usage() override;

private:
    enum class Limiter { global, atom, component } limiter_ = Limiter::global;
    double A_, B_, C_, D_;
    class PairEIP* pair_ = nullptr;
    std::vector<double> bias_;  // ∂(Σ σ_i)/∂R, then the force, [nlocal + nghost, 3]
    double energy_ = 0, sigma_ = 0, largest_ = 0;

    void limit();
};

}  // namespace LAMMPS_NS
