#include "pair_eip.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>

#include "atom.h"
#include "comm.h"
#include "error.h"
#include "force.h"
#include "memory.h"
#include "modify.h"
#include "neigh_list.h"
#include "neighbor.h"
#include "update.h"
#include "utils.h"

#ifndef EIP_LAMMPS_VERSION
#error "EIP_LAMMPS_VERSION must be the version of LAMMPS, as 20250722"
#endif

using namespace LAMMPS_NS;

PairEIP::PairEIP(LAMMPS* lmp) : Pair(lmp) {
    if (lmp->num_ver != EIP_LAMMPS_VERSION)
        error->all(FLERR,
                   "pair style eip was built for LAMMPS {} and is used with LAMMPS {}; run 'eip lammps "
                   "build' again with the headers of this one",
                   EIP_LAMMPS_VERSION, lmp->num_ver);
    single_enable = 0;
    restartinfo = 0;
    one_coeff = 1;
    manybody_flag = 1;
    no_virial_fdotr_compute = 1;
    centroidstressflag = CENTROID_NOTAVAIL;
    nextra = 3;
    pvector = new double[nextra];
    std::fill_n(pvector, nextra, 0.0);
    comm_forward = 1;
}

PairEIP::~PairEIP() {
    if (copymode) return;
    delete[] pvector;
    if (allocated) {
        memory->destroy(setflag);
        memory->destroy(cutsq);
    }
}

void PairEIP::allocate() {
    allocated = 1;
    const int n = atom->ntypes + 1;
    memory->create(setflag, n, n, "pair:setflag");
    memory->create(cutsq, n, n, "pair:cutsq");
    for (int i = 1; i < n; i++)
        for (int j = 1; j < n; j++) setflag[i][j] = 0;
}

void PairEIP::settings(int narg, char** arg) {
    if (narg > 0)
        error->all(FLERR, "pair style eip takes no arguments, got '{}'; the model is named by pair_coeff",
                   arg[0]);
}

// pair_coeff * * FILE ELEMENT …, one for each atom type.
void PairEIP::coeff(int narg, char** arg) {
    if (narg < 4)
        error->all(FLERR, "pair_coeff of pair style eip is '* * FILE ELEMENT …', one element for each atom type");
    if (narg - 3 != atom->ntypes)
        error->all(FLERR, "pair_coeff of pair style eip names {} elements, and there are {} atom types",
                   narg - 3, atom->ntypes);

    // One process reads, all get the same.
    std::vector<char> content;
    long size = -1;
    if (comm->me == 0) {
        if (FILE* file = fopen(arg[2], "rb")) {
            fseek(file, 0, SEEK_END);
            size = ftell(file);
            rewind(file);
            content.resize(std::max(size, 0L));
            if (fread(content.data(), 1, content.size(), file) != content.size()) size = -1;
            fclose(file);
        }
    }
    MPI_Bcast(&size, 1, MPI_LONG, 0, world);
    if (size < 0) error->all(FLERR, "pair style eip: the file {} cannot be read", arg[2]);
    if (size > MAXSMALLINT) error->all(FLERR, "pair style eip: the file {} is too large", arg[2]);
    content.resize(size);
    MPI_Bcast(content.data(), static_cast<int>(size), MPI_BYTE, 0, world);
    try {
        potential_ = eip::make_potential(std::move(content));
    } catch (const std::exception& failure) {
        error->all(FLERR, "pair style eip: the file {} {}", arg[2], failure.what());
    }

    const auto& known = potential_->elements();
    std::string all;
    for (const auto& element : known) all += (all.empty() ? "" : ", ") + element;
    kind_of_type_.assign(atom->ntypes + 1, -1);
    if (!allocated) allocate();
    for (int type = 1; type <= atom->ntypes; type++) {
        const auto found = std::find(known.begin(), known.end(), arg[2 + type]);
        if (found == known.end())
            error->all(FLERR, "pair style eip: atom type {} is '{}', and the model {} knows {}", type, arg[2 + type],
                       arg[2], all);
        kind_of_type_[type] = found - known.begin();
        for (int other = 1; other <= atom->ntypes; other++) setflag[type][other] = 1;
    }
}

void PairEIP::init_style() {
    if (strcmp(update->unit_style, "metal") != 0)
        error->all(FLERR, "pair style eip needs 'units metal', got 'units {}'", update->unit_style);
    if (!force->newton_pair) error->all(FLERR, "pair style eip needs 'newton on'");
    for (int k = 1; k < 4; k++)
        if (atom->molecular != Atom::ATOMIC && (force->special_lj[k] != 1 || force->special_coul[k] != 1))
            error->all(FLERR, "pair style eip acts between bonded atoms too: it needs 'special_bonds lj/coul 1 1 1'");
    neighbor->add_request(this, NeighConst::REQ_FULL);
    gradient_wanted_ = false;  // who wants it says so again, after this
    compute_pair_ = !modify->get_compute_by_style("pair").empty();
    if (compute_pair_ && !has_sigma() && comm->me == 0)
        error->warning(FLERR, "the model of pair style eip has no uncertainty; compute pair gives zeros");
}

double PairEIP::init_one(int i, int j) {
    if (!setflag[i][j]) error->all(FLERR, "pair style eip: pair_coeff names no element of types {} and {}", i, j);
    return potential_->cutoff();
}

void PairEIP::setup() {
    const double reach = comm->get_comm_cutoff();
    if (reach < potential_->cutoff())
        error->all(FLERR,
                   "pair style eip sees {} Å far, and ghost atoms are kept within {} Å; raise comm_modify cutoff",
                   potential_->cutoff(), reach);
}

void PairEIP::compute(int eflag, int vflag) {
    ev_init(eflag, vflag);
    if (list->inum != atom->nlocal)
        error->one(FLERR, "pair style eip works on all atoms, and is given {} of {}", list->inum, atom->nlocal);
    if (neighbor->ago == 0) sort_list(atom->x);
    list_edges(atom->x);
    const eip::Surroundings atoms{atom->nlocal, halo_.held(), species_.data(), first_.data(),
                                  neighbors_.data(), atoms_of_edges_.data(), atom->x, comm->nthreads};
    eip::Asked asked;
    asked.gradient_of_sigma = gradient_wanted_;
    asked.sigma = sigma_trigger_ || grade_trigger_ || (asked_ && !triggered_) || gradient_wanted_ ||
                  (compute_pair_ && eflag_global);
    potential_->evaluate(atoms, asked, halo_, answer_);
    add_forces(atom->f);
    check_finite();
    tally(eflag);
    if (answer_.has_sigma) summarize();
}

// Neighbors in an order that depends on nothing but the atoms: a sum of floats depends on its order, and where
// LAMMPS keeps which atom, on how it came to this step. And who is at home where.
void PairEIP::sort_list(double** x) {
    const int own = atom->nlocal, held = own + atom->nghost;
    std::vector<char> seen(held, 0);
    size_t count = 0;
    for (int i = 0; i < own; i++) {
        count += list->numneigh[i];
        int* all = list->firstneigh[i];
        sorted_.clear();
        for (int n = 0; n < list->numneigh[i]; n++) {
            const int j = all[n] & NEIGHMASK;
            seen[j] = 1;
            sorted_.push_back({atom->tag_enable ? atom->tag[j] : 0, all[n],
                               {x[j][0] - x[i][0], x[j][1] - x[i][1], x[j][2] - x[i][2]}});
        }
        std::sort(sorted_.begin(), sorted_.end());
        for (const Neighbor& one : sorted_) *all++ = one.j;
    }
    // No more can come: what grows by doubling leaves holes as large as itself.
    neighbors_.reserve(count);
    atoms_of_edges_.reserve(count);
    places_.resize(held);
    for (int i = 0; i < own; i++) places_[i] = {comm->me, i};
    comm->forward_comm(this);
    halo_.find(world, own, places_, seen);
}

// Neighbors within the cutoff.
void PairEIP::list_edges(double** x) {
    const int own = atom->nlocal;
    const double square = potential_->cutoff() * potential_->cutoff();
    species_.resize(halo_.held());
    for (int64_t row = 0; row < halo_.held(); row++)
        species_[row] = kind_of_type_[atom->type[halo_.atom_of(row)]];
    first_.resize(own + 1);
    neighbors_.clear();
    atoms_of_edges_.clear();
    for (int i = 0; i < own; i++) {
        first_[i] = static_cast<int64_t>(neighbors_.size());
        const int* all = list->firstneigh[i];
        for (int n = 0; n < list->numneigh[i]; n++) {
            const int j = all[n] & NEIGHMASK;
            const double d[3] = {x[j][0] - x[i][0], x[j][1] - x[i][1], x[j][2] - x[i][2]};
            if (d[0] * d[0] + d[1] * d[1] + d[2] * d[2] >= square) continue;
            neighbors_.push_back(halo_.row_of(j));
            atoms_of_edges_.push_back(j);
        }
    }
    first_[own] = static_cast<int64_t>(neighbors_.size());
}

// Images of one atom are apart by lattice vectors: what differs by less is rounding.
bool PairEIP::Neighbor::operator<(const Neighbor& other) const {
    if (tag != other.tag) return tag < other.tag;
    for (int k = 0; k < 3; k++)
        if (std::abs(d[k] - other.d[k]) > 1e-3) return d[k] < other.d[k];
    return false;
}

// To a multiple of 2⁻³⁸ eV/Å, 4·10⁻¹²: sums of such numbers are exact up to 32,768, whatever their order, on
// ghosts and across processes too.
static double rounded(double g) {
    constexpr double UNIT = 274877906944.0;  // 2³⁸
    return std::nearbyint(g * UNIT) / UNIT;
}

void PairEIP::add_forces(double** f) {
    const auto spread = [&](const eip::OfEdges& to_vectors, const auto& add) {
        to_vectors.with([&](const auto* of_edge) {
            for (int i = 0; i < atom->nlocal; i++)
                for (int64_t e = first_[i]; e < first_[i + 1]; e++) {
                    double g[3];
                    for (int k = 0; k < 3; k++) g[k] = rounded(of_edge[3 * e + k]);
                    add(i, atoms_of_edges_[e], g);
                }
        });
    };
    double* const* x = atom->x;
    spread(answer_.to_vectors, [&](int i, int j, const double* g) {
        for (int k = 0; k < 3; k++) {
            f[i][k] += g[k];
            f[j][k] -= g[k];
        }
        if (!vflag_either) return;
        // The gradient of an edge is not along it: W_ab = −d_a g_b, of which the symmetric part stays.
        const double d[3] = {x[j][0] - x[i][0], x[j][1] - x[i][1], x[j][2] - x[i][2]};
        const double v[6] = {-d[0] * g[0], -d[1] * g[1], -d[2] * g[2], -0.5 * (d[0] * g[1] + d[1] * g[0]),
                             -0.5 * (d[0] * g[2] + d[2] * g[0]), -0.5 * (d[1] * g[2] + d[2] * g[1])};
        for (int k = 0; k < 6; k++) {
            if (vflag_global) virial[k] += v[k];
            if (vflag_atom) {
                vatom[i][k] += 0.5 * v[k];
                vatom[j][k] += 0.5 * v[k];
            }
        }
    });
    if (!gradient_wanted_) return;
    gradient_of_sigma_.assign(3 * (atom->nlocal + atom->nghost), 0.0);
    spread(answer_.to_vectors_of_sigma, [&](int i, int j, const double* g) {
        for (int k = 0; k < 3; k++) {
            gradient_of_sigma_[3 * i + k] -= g[k];
            gradient_of_sigma_[3 * j + k] += g[k];
        }
    });
}

// Before LAMMPS adds up what is on ghosts, so that the atom is the one that it began with.
void PairEIP::check_finite() {
    for (int i = 0; i < atom->nlocal + atom->nghost; i++) {
        const double* f = atom->f[i];
        if (std::isfinite(f[0] + f[1] + f[2]) && (i >= atom->nlocal || std::isfinite(answer_.energy[i]))) continue;
        error->one(FLERR, "pair style eip: the force on atom {} is not finite at step {}",
                   atom->tag_enable ? atom->tag[i] : tagint(i), update->ntimestep);
    }
}

void PairEIP::tally(int eflag) {
    if (!eflag) return;
    for (int i = 0; i < atom->nlocal; i++) {
        if (eflag_global) eng_vdwl += answer_.energy[i];
        if (eflag_atom) eatom[i] += answer_.energy[i];
    }
}

// pvector: mean and largest σ_i, largest grade, over all atoms. compute pair adds up over processes.
void PairEIP::summarize() {
    sigma_.resize(atom->nmax);
    grade_.resize(atom->nmax);
    std::copy(answer_.sigma.begin(), answer_.sigma.end(), sigma_.begin());
    std::copy(answer_.grade.begin(), answer_.grade.end(), grade_.begin());
    double sums[2] = {0, static_cast<double>(atom->nlocal)}, largest[2] = {0, 0}, all_sums[2], all_largest[2];
    for (double sigma : answer_.sigma) {
        sums[0] += sigma;
        largest[0] = std::max(largest[0], sigma);
    }
    for (double grade : answer_.grade) largest[1] = std::max(largest[1], grade);
    MPI_Allreduce(sums, all_sums, 2, MPI_DOUBLE, MPI_SUM, world);
    MPI_Allreduce(largest, all_largest, 2, MPI_DOUBLE, MPI_MAX, world);
    mean_sigma_ = all_sums[1] > 0 ? all_sums[0] / all_sums[1] : 0.0;
    largest_grade_ = all_largest[1];
    const bool first = comm->me == 0;
    pvector[0] = first ? mean_sigma_ : 0;
    pvector[1] = first ? all_largest[0] : 0;
    pvector[2] = first ? largest_grade_ : 0;
}

// Where atoms are at home, in the room of a double.
int PairEIP::pack_forward_comm(int n, int* list, double* buffer, int, int*) {
    static_assert(sizeof(eip::Halo::Place) == sizeof(double));
    for (int k = 0; k < n; k++) std::memcpy(buffer + k, &places_[list[k]], sizeof(double));
    return n;
}

void PairEIP::unpack_forward_comm(int n, int first, double* buffer) {
    std::memcpy(places_.data() + first, buffer, n * sizeof(double));
}

void* PairEIP::extract(const char* name, int& dim) {
    dim = 0;
    int* trigger = nullptr;
    if (has_sigma() && strcmp(name, "sigma_flag") == 0) trigger = &sigma_trigger_;
    if (has_grade() && strcmp(name, "grade_flag") == 0) trigger = &grade_trigger_;
    triggered_ = triggered_ || trigger;
    return trigger;
}

void* PairEIP::extract_peratom(const char* name, int& columns) {
    columns = 0;
    const bool sigma = strcmp(name, "sigma") == 0, grade = strcmp(name, "grade") == 0;
    if (!(sigma || grade)) return nullptr;
    if (!has_sigma() || (grade && !has_grade()))
        error->all(FLERR, "pair style eip: the model has no {}; 'eip info MODEL' says what it has",
                   sigma ? "uncertainty" : "extrapolation grade");
    asked_ = true;
    // None of this step: whoever asks is told so, not given what is old.
    if (!answer_.has_sigma) return nullptr;
    return sigma ? sigma_.data() : grade_.data();
}

double PairEIP::memory_usage() {
    return Pair::memory_usage() + (potential_ ? potential_->bytes() : 0) + halo_.bytes() +
           sizeof(eip::Halo::Place) * places_.capacity() + sizeof(int) * atoms_of_edges_.capacity() +
           sizeof(int64_t) * (neighbors_.capacity() + species_.capacity()) + answer_.to_vectors.bytes() +
           answer_.to_vectors_of_sigma.bytes();
}
