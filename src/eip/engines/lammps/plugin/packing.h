// Weights of a file in the order in which the kernels of this processor read them.
#pragma once

#include <algorithm>
#include <memory>
#include <sstream>

#include "coupling.h"
#include "weights.h"

namespace eip {

// Arrays that live as long as the potential; each begins on a cache line.
template <class T>
class Store {
public:
    T* take(size_t count) {
        rooms_.push_back(std::make_unique<Room<T>>());
        return rooms_.back()->take(count);
    }
    const T* copy(const std::vector<T>& values) {
        T* to = take(values.size());
        std::copy(values.begin(), values.end(), to);
        return to;
    }

private:
    std::vector<std::unique_ptr<Room<T>>> rooms_;
};

// A linear map [out, in] as panels; with `columns` as many outputs, those behind its own zero.
template <class T>
const T* forward_panels(Store<T>& store, const std::vector<T>& weight, int out, int in, int columns = 0) {
    std::vector<T> filled(weight);
    columns = columns ? columns : out;
    filled.resize(static_cast<size_t>(columns) * in, T(0));
    T* to = store.take(filled.size());
    pack(filled.data(), in, columns, 1, in, to);
    return to;
}

// Its transpose, for the gradient.
template <class T>
const T* backward_panels(Store<T>& store, const std::vector<T>& weight, int out, int in) {
    T* to = store.take(weight.size());
    pack(weight.data(), out, in, in, 1, to);
    return to;
}

// A table of filters [knots, paths, F] by chunks of channels, [chunks, knots, paths, chunk].
template <class T>
const T* by_chunks(Store<T>& store, const std::vector<T>& table, int64_t knots, int64_t paths, int F,
                   int chunk) {
    T* to = store.take(table.size());
    T* at = to;
    for (int64_t c = 0; c < F / chunk; c++)
        for (int64_t row = 0; row < knots * paths; row++, at += chunk)
            std::copy_n(table.data() + row * F + c * chunk, chunk, at);
    return to;
}

inline std::vector<std::string> words(const std::string& text) {
    std::istringstream stream(text);
    std::vector<std::string> found;
    for (std::string one; stream >> one;) found.push_back(one);
    return found;
}

// φ of PaiNN, [3, F] behind each other, in the order of chunks (message.h): its rows of `row` numbers each.
template <class T>
std::vector<T> in_chunks(const std::vector<T>& values, int F, int chunk, int row) {
    std::vector<T> out;
    out.reserve(values.size());
    for (int c = 0; c < F / chunk; c++)
        for (int part = 0; part < 3; part++) {
            const auto from = values.begin() + static_cast<ptrdiff_t>(part * F + c * chunk) * row;
            out.insert(out.end(), from, from + static_cast<ptrdiff_t>(chunk) * row);
        }
    return out;
}

// How the arrays of a network are laid out.
struct Layout {
    int F, chunk;  // channels, and those of a row of a table
    std::vector<std::string> plain, chunked;  // what stays as it is; what has the order of φ
};

// The arrays of a struct (packed.h) by its list of names. A name of the file with three axes is a table, one
// with two a linear map, whose panels stand under it and under it with "_back"; what the file lacks is null.
template <class T>
void fill(const Weights& file, Store<T>& store, const std::string& where, const std::string& names,
          const Layout& layout, const T** to) {
    const std::string back = "_back";
    const auto among = [](const std::vector<std::string>& all, const std::string& name) {
        return std::find(all.begin(), all.end(), name) != all.end();
    };
    for (const std::string& name : words(names)) {
        const bool is_back = name.size() > back.size() &&
                             name.compare(name.size() - back.size(), back.size(), back) == 0;
        const std::string base = is_back ? name.substr(0, name.size() - back.size()) : name;
        const T*& out = *to++;
        out = nullptr;
        if (!file.has(where + base)) continue;
        const std::vector<int64_t>& shape = file.array(where + base).shape;
        std::vector<T> values = file.values<T>(where + base);
        const int rows = static_cast<int>(shape[0]), columns = shape.size() > 1 ? static_cast<int>(shape[1]) : 1;
        if (among(layout.chunked, base)) values = in_chunks(values, layout.F, layout.chunk, columns);
        if (shape.size() == 1 || among(layout.plain, name))
            out = store.copy(values);
        else if (shape.size() == 3)
            out = by_chunks(store, values, rows, columns, layout.F, layout.chunk);
        else
            out = is_back ? backward_panels(store, values, rows, columns)
                          : forward_panels(store, values, rows, columns);
    }
}

// What no vector of this build can take is refused.
template <class T>
int channels_of(const Weights& file) {
    const int64_t F = file.whole("channels");
    if (F % Simd<T>::LANES)
        throw std::runtime_error("has " + std::to_string(F) + " channels, which are no multiple of " +
                                 std::to_string(Simd<T>::LANES) +
                                 ", as this build's vectors take them; build with a lesser --march");
    return static_cast<int>(F);
}

// Work on blocks of own atoms, by as many threads as there are.
template <class Do>
void for_blocks(int64_t atoms, int threads, const Do& work_on) {
    const int64_t count = (atoms + BLOCK - 1) / BLOCK;
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
    for (int64_t b = 0; b < count; b++) work_on(b * BLOCK, std::min(atoms, (b + 1) * BLOCK));
}

}  // namespace eip
