#include "fix_eip_udd.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "atom.h"
#include "comm.h"
#include "error.h"
#include "force.h"
#include "pair_eip.h"
#include "update.h"
#include "utils.h"

using namespace LAMMPS_NS;

FixEIPUDD::FixEIPUDD(LAMMPS* lmp, int narg, char** arg) : Fix(lmp, narg, arg) {
    if (narg < 7 || narg > 8)
        error->all(FLERR, "fix eip/udd is 'fix ID all eip/udd A B C D [global|atom|component]', A in eV, the others in eV/Å");
    if (igroup != 0) error->all(FLERR, "fix eip/udd biases the structure as a whole: its group must be all");
    double* const values[4] = {&A_, &B_, &C_, &D_};
    for (int k = 0; k < 4; k++) {
        *values[k] = utils::numeric(FLERR, arg[3 + k], false, lmp);
        if (!(std::isfinite(*values[k]) && *values[k] > 0))
            error->all(FLERR, "fix eip/udd needs {} > 0, got {}", "ABCD"[k], arg[3 + k]);
    }
    if (narg == 8) {
        if (strcmp(arg[7], "atom") == 0)
            limiter_ = Limiter::atom;
        else if (strcmp(arg[7], "component") == 0)
            limiter_ = Limiter::component;
        else if (strcmp(arg[7], "global") != 0)
            error->all(FLERR, "fix eip/udd: the limiter is global, atom or component, got '{}'", arg[7]);
    }
    scalar_flag = vector_flag = 1;
    size_vector = 2;
    extscalar = extvector = 0;
    global_freq = 1;
    comm_reverse = 3;
}

int FixEIPUDD::setmask() { return FixConst::POST_FORCE; }

void FixEIPUDD::init() {
    pair_ = dynamic_cast<PairEIP*>(force->pair_match("eip", 1));
    if (!pair_) error->all(FLERR, "fix eip/udd needs pair style eip");
    if (!pair_->has_sigma()) error->all(FLERR, "fix eip/udd follows the uncertainty, and the model of pair style eip has none");
    pair_->want_gradient_of_sigma();
}

void FixEIPUDD::setup(int vflag) { post_force(vflag); }

void FixEIPUDD::post_force(int) {
    bias_ = pair_->gradient_of_sigma();
    comm->reverse_comm(this);
    const double atoms = static_cast<double>(atom->natoms);
    sigma_ = pair_->mean_sigma();
    const double exponent = -sigma_ * sigma_ / (atoms * B_ * B_);
    energy_ = A_ * std::expm1(exponent);
    // −∂E/∂R, of σ = Σ σ_i / N.
    const double rate = A_ * std::exp(exponent) * 2 * sigma_ / (atoms * B_ * B_) / atoms;
    bias_.resize(3 * atom->nlocal);
    for (double& one : bias_) one *= rate;
    limit();
    for (int i = 0; i < atom->nlocal; i++)
        for (int k = 0; k < 3; k++) atom->f[i][k] += bias_[3 * i + k];
}

// F · D/(√(2π) C) · exp(−F²/(2C²)).
void FixEIPUDD::limit() {
    const auto size = [&](int i) {
        const double* f = bias_.data() + 3 * i;
        return std::sqrt(f[0] * f[0] + f[1] * f[1] + f[2] * f[2]);
    };
    const auto gain = [&](double F) {
        return D_ / (std::sqrt(2 * M_PI) * C_) * std::exp(-F * F / (2 * C_ * C_));
    };
    const auto largest = [&] {
        double own = 0, all = 0;
        for (int i = 0; i < atom->nlocal; i++) own = std::max(own, size(i));
        MPI_Allreduce(&own, &all, 1, MPI_DOUBLE, MPI_MAX, world);
        return all;
    };
    const double of_all = limiter_ == Limiter::global ? gain(largest()) : 0;
    double net[3] = {0, 0, 0}, all[3];
    for (int i = 0; i < atom->nlocal; i++) {
        const double of_atom = limiter_ == Limiter::atom ? gain(size(i)) : of_all;
        for (int k = 0; k < 3; k++) {
            double& f = bias_[3 * i + k];
            f *= limiter_ == Limiter::component ? gain(f) : of_atom;
            net[k] += f;
        }
    }
    if (limiter_ == Limiter::atom) {
        MPI_Allreduce(net, all, 3, MPI_DOUBLE, MPI_SUM, world);
        for (int i = 0; i < atom->nlocal; i++)
            for (int k = 0; k < 3; k++) bias_[3 * i + k] -= all[k] / atom->natoms;
    }
    largest_ = largest();
}

// The bias energy, eV; the potential energy never holds it.
double FixEIPUDD::compute_scalar() { return energy_; }

// σ of the structure, and the largest force of the bias, eV/Å.
double FixEIPUDD::compute_vector(int n) { return n == 0 ? sigma_ : largest_; }

int FixEIPUDD::pack_reverse_comm(int n, int first, double* buffer) {
    std::copy_n(bias_.data() + 3 * first, 3 * n, buffer);
    return 3 * n;
}

void FixEIPUDD::unpack_reverse_comm(int n, int* list, double* buffer) {
    for (int k = 0; k < n; k++)
        for (int c = 0; c < 3; c++) bias_[3 * list[k] + c] += buffer[3 * k + c];
}

double FixEIPUDD::memory_usage() { return sizeof(double) * static_cast<double>(bias_.capacity()); }
