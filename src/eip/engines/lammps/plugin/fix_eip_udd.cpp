#include "fix_eip_udd.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "atom.h"
#include "comm.h"
#include "error.h"
#include "force.h"
#include "memory.h"
#include "pair_eip.h"
#include "update.h"
#include "utils.h"

using namespace LAMMPS_NS;

namespace {
// The extrapolation grade of the edge of what was seen.
constexpr double EDGE = 1.0;

double size(const double* f) { return std::sqrt(f[0] * f[0] + f[1] * f[1] + f[2] * f[2]); }
}  // namespace

FixEIPUDD::FixEIPUDD(LAMMPS* lmp, int narg, char** arg) : Fix(lmp, narg, arg) {
    if (narg < 7)
        error->all(FLERR, "fix eip/udd is 'fix ID all eip/udd A B C D [global|atom|component|saturating] [hover GRADE] [memory TIME]', A in eV, B, C and D in eV/Å, the time in ps");
    if (igroup != 0) error->all(FLERR, "fix eip/udd biases the structure as a whole: its group must be all");
    double* const values[4] = {&A_, &B_, &C_, &D_};
    for (int k = 0; k < 4; k++) {
        *values[k] = utils::numeric(FLERR, arg[3 + k], false, lmp);
        if (!(std::isfinite(*values[k]) && *values[k] > 0))
            error->all(FLERR, "fix eip/udd needs {} > 0, got {}", "ABCD"[k], arg[3 + k]);
    }
    bool limiter_given = false;
    for (int k = 7; k < narg; k++) {
        const bool hover = strcmp(arg[k], "hover") == 0, memory = strcmp(arg[k], "memory") == 0;
        if (hover || memory) {
            if (k + 1 == narg) error->all(FLERR, "fix eip/udd: {} needs a number after it", arg[k]);
            const double least = hover ? EDGE : 0.0, value = utils::numeric(FLERR, arg[k + 1], false, lmp);
            if (!(std::isfinite(value) && value > least))
                error->all(FLERR, "fix eip/udd needs {} > {}, got {}", arg[k], least, arg[k + 1]);
            (hover ? hover_ : memory_) = value;
            k++;
            continue;
        }
        limiter_given = true;
        if (strcmp(arg[k], "atom") == 0)
            limiter_ = Limiter::atom;
        else if (strcmp(arg[k], "component") == 0)
            limiter_ = Limiter::component;
        else if (strcmp(arg[k], "saturating") == 0)
            limiter_ = Limiter::saturating;
        else if (strcmp(arg[k], "global") == 0)
            limiter_ = Limiter::global;
        else
            error->all(FLERR, "fix eip/udd: the limiter is global, atom, component or saturating, got '{}'", arg[k]);
    }
    // Where a grade says how strong the push is, nothing else is to.
    if (hover_ > 0 && !limiter_given) limiter_ = Limiter::saturating;
    if (memory_ > 10)
        error->all(FLERR, "fix eip/udd: memory is in ps here and at most 10, got {}", memory_);
    if (memory_ > 0) {
        grow_arrays(atom->nmax);
        for (int i = 0; i < atom->nlocal; i++) set_arrays(i);
        atom->add_callback(Atom::GROW);
        atom->add_callback(Atom::RESTART);
        restart_peratom = 1;
        maxexchange = 3;
    }
    scalar_flag = vector_flag = 1;
    size_vector = 2;
    extscalar = extvector = 0;
    global_freq = 1;
    comm_reverse = 3;
}

FixEIPUDD::~FixEIPUDD() {
    if (memory_ <= 0) return;
    atom->delete_callback(id, Atom::GROW);
    atom->delete_callback(id, Atom::RESTART);
    memory->destroy(mean_);
}

int FixEIPUDD::setmask() { return FixConst::POST_FORCE; }

void FixEIPUDD::init() {
    pair_ = dynamic_cast<PairEIP*>(force->pair_match("eip", 1));
    if (!pair_) error->all(FLERR, "fix eip/udd needs pair style eip");
    if (!pair_->has_sigma()) error->all(FLERR, "fix eip/udd follows the uncertainty, and the model of pair style eip has none");
    if (hover_ > 0 && !pair_->has_grade())
        error->all(FLERR, "fix eip/udd is to hover at an extrapolation grade, and the model of pair style eip gives none");
    pair_->want_gradient_of_sigma();
}

// A run that goes on begins where the one before it ended: the mean holds this step already.
void FixEIPUDD::setup(int) {
    find_bias();
    if (!begun_) remember();
    add_bias();
}

void FixEIPUDD::post_force(int) {
    find_bias();
    remember();
    add_bias();
}

void FixEIPUDD::find_bias() {
    bias_ = pair_->gradient_of_sigma();
    comm->reverse_comm(this);
    const double atoms = static_cast<double>(atom->natoms);
    sigma_ = pair_->mean_sigma();
    const double exponent = sigma_ * sigma_ / (atoms * B_ * B_);
    const bool stays = limiter_ == Limiter::saturating;
    energy_ = stays ? -A_ * std::log1p(exponent) : A_ * std::expm1(-exponent);
    // −∂E/∂R, of σ = Σ σ_i / N.
    const double fading = stays ? 1 / (1 + exponent) : std::exp(-exponent);
    const double rate = A_ * fading * 2 * sigma_ / (atoms * B_ * B_) / atoms;
    bias_.resize(3 * atom->nlocal);
    for (double& one : bias_) one *= rate;
    limit();
    if (hover_ > 0) turn_round();
}

// Whole as long as no atom is beyond what was seen, none at the grade to hover at, back beyond it.
void FixEIPUDD::turn_round() {
    const double push = std::clamp((hover_ - pair_->largest_grade()) / (hover_ - EDGE), -1.0, 1.0);
    for (double& one : bias_) one *= push;
}

void FixEIPUDD::remember() {
    begun_ = true;
    if (memory_ <= 0) return;
    const double kept = std::exp(-update->dt / memory_);
    for (int i = 0; i < atom->nlocal; i++)
        for (int k = 0; k < 3; k++) mean_[i][k] = kept * mean_[i][k] + (1 - kept) * bias_[3 * i + k];
}

void FixEIPUDD::add_bias() {
    for (int i = 0; memory_ > 0 && i < atom->nlocal; i++) std::copy_n(mean_[i], 3, bias_.data() + 3 * i);
    for (int i = 0; i < atom->nlocal; i++)
        for (int k = 0; k < 3; k++) atom->f[i][k] += bias_[3 * i + k];
    largest_ = largest();
}

double FixEIPUDD::largest() const {
    double own = 0, all = 0;
    for (int i = 0; i < atom->nlocal; i++) own = std::max(own, size(bias_.data() + 3 * i));
    MPI_Allreduce(&own, &all, 1, MPI_DOUBLE, MPI_MAX, world);
    return all;
}

// F · D/(√(2π) C) · exp(−F²/(2C²)), or what is as large at most, F · D e^{−½}/√(2π)/√(F² + C²).
void FixEIPUDD::limit() {
    const auto gain = [&](double F) {
        if (limiter_ == Limiter::saturating)
            return D_ * std::exp(-0.5) / std::sqrt(2 * M_PI) / std::sqrt(F * F + C_ * C_);
        return D_ / (std::sqrt(2 * M_PI) * C_) * std::exp(-F * F / (2 * C_ * C_));
    };
    const bool of_structure = limiter_ == Limiter::global || limiter_ == Limiter::saturating;
    const double of_all = of_structure ? gain(largest()) : 0;
    double net[3] = {0, 0, 0}, all[3];
    for (int i = 0; i < atom->nlocal; i++) {
        const double of_atom = limiter_ == Limiter::atom ? gain(size(bias_.data() + 3 * i)) : of_all;
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

void FixEIPUDD::grow_arrays(int atoms) { memory->grow(mean_, atoms, 3, "eip/udd:mean"); }

void FixEIPUDD::copy_arrays(int from, int to, int) { std::copy_n(mean_[from], 3, mean_[to]); }

void FixEIPUDD::set_arrays(int i) { std::fill_n(mean_[i], 3, 0.0); }

int FixEIPUDD::pack_exchange(int i, double* buffer) {
    std::copy_n(mean_[i], 3, buffer);
    return 3;
}

int FixEIPUDD::unpack_exchange(int i, double* buffer) {
    std::copy_n(buffer, 3, mean_[i]);
    return 3;
}

int FixEIPUDD::pack_restart(int i, double* buffer) {
    buffer[0] = 4;
    std::copy_n(mean_[i], 3, buffer + 1);
    return 4;
}

void FixEIPUDD::unpack_restart(int i, int which) {
    const double* values = atom->extra[i];
    int at = 0;
    for (int k = 0; k < which; k++) at += static_cast<int>(values[at]);
    std::copy_n(values + at + 1, 3, mean_[i]);
    begun_ = true;
}

double FixEIPUDD::memory_usage() {
    const double of_mean = memory_ > 0 ? 3.0 * atom->nmax : 0.0;
    return sizeof(double) * (static_cast<double>(bias_.capacity()) + of_mean);
}
