// What `plugin load` calls. LAMMPS' own lammpsplugin.h is not among the headers that it installs.
#include "fix_eip_udd.h"
#include "pair_eip.h"

namespace {

struct lammpsplugin_t {
    const char *version, *style, *name, *info, *author;
    union {
        void* (*v1)(LAMMPS_NS::LAMMPS*);
        void* (*v2)(LAMMPS_NS::LAMMPS*, int, char**);
    } creator;
    void* handle;
};

typedef void (*Register)(lammpsplugin_t*, void*);

void* pair_eip(LAMMPS_NS::LAMMPS* lmp) {
    return static_cast<LAMMPS_NS::Pair*>(new LAMMPS_NS::PairEIP(lmp));
}

void* fix_eip_udd(LAMMPS_NS::LAMMPS* lmp, int narg, char** arg) {
    return static_cast<LAMMPS_NS::Fix*>(new LAMMPS_NS::FixEIPUDD(lmp, narg, arg));
}

}  // namespace

extern "C" __attribute__((visibility("default"))) void lammpsplugin_init(void* lmp, void* handle, void* with) {
    lammpsplugin_t plugin{};
    plugin.version = nullptr;  // the style itself compares it, and refuses
    plugin.author = "the eIP developers";
    plugin.handle = handle;
    plugin.style = "pair";
    plugin.name = "eip";
    plugin.info = "eIP, energies and forces with their uncertainty";
    plugin.creator.v1 = &pair_eip;
    const Register add = reinterpret_cast<Register>(with);
    add(&plugin, lmp);
    plugin.style = "fix";
    plugin.name = "eip/udd";
    plugin.info = "eIP, uncertainty-driven dynamics";
    plugin.creator.v2 = &fix_eip_udd;
    add(&plugin, lmp);
}
