// Structs of arrays whose order is said once: a list of names makes the struct and what Python reads of it.
//
//     #define LAYER(ARRAY) ARRAY(weight) ARRAY(bias)
//     template <class T> struct Layer { LAYER(CONST_ARRAY) };
//     EXPORT_FIELDS(layer, LAYER)          → eip_fields_layer() gives "weight bias "
#pragma once

#include <cstdint>
#include <vector>

#define CONST_ARRAY(name) const T* name = nullptr;
#define ARRAY(name) T* name = nullptr;
#define NAME_OF_ARRAY(name) #name " "
#define EXPORT_FIELDS(struct_name, LIST) \
    extern "C" const char* eip_fields_##struct_name() { return LIST(NAME_OF_ARRAY); }

// Addresses of `count` arrays in one block of memory: where each begins, in bytes from the block's own
// beginning (0: there is none), stands at the front of it, as int64.
static inline std::vector<const void*> addresses(const void* block, int64_t count) {
    const auto* offsets = static_cast<const int64_t*>(block);
    std::vector<const void*> found(count, nullptr);
    for (int64_t k = 0; k < count; k++)
        if (offsets[k]) found[k] = static_cast<const char*>(block) + offsets[k];
    return found;
}
