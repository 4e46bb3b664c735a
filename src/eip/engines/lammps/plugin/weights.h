// The file that `eip export MODEL --for lammps` writes: named arrays behind each other, with a checksum.
//
//     8 bytes  "EIPLMP\n\0"
//     int64    version of this layout
//     int64    bytes of what follows the next number
//     int64    their CRC-32
//     then, again and again, each part filled up with zeros to a multiple of 8 bytes:
//         int64 length of the name, the name, int64 kind, int64 axes, int64 length of each, the numbers
//
// All of it little-endian. What goes wrong is told by std::runtime_error, in words that follow the file's
// name.
#pragma once

#include <cstdint>
#include <cstring>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

namespace eip {

constexpr int64_t FILE_VERSION = 1;
constexpr char MAGIC[8] = {'E', 'I', 'P', 'L', 'M', 'P', '\n', '\0'};

enum class Kind : int64_t { float32 = 0, float64 = 1, int64 = 2, text = 3 };

struct Array {
    Kind kind;
    std::vector<int64_t> shape;
    const char* data;

    int64_t count() const {
        int64_t all = 1;
        for (int64_t axis : shape) all *= axis;
        return all;
    }
};

inline uint32_t crc32(const char* data, size_t size) {
    static const std::vector<uint32_t> table = [] {
        std::vector<uint32_t> made(256);
        for (uint32_t n = 0; n < 256; n++) {
            uint32_t c = n;
            for (int k = 0; k < 8; k++) c = c & 1 ? 0xEDB88320u ^ (c >> 1) : c >> 1;
            made[n] = c;
        }
        return made;
    }();
    uint32_t c = 0xFFFFFFFFu;
    for (size_t k = 0; k < size; k++)
        c = table[(c ^ static_cast<unsigned char>(data[k])) & 0xFF] ^ (c >> 8);
    return c ^ 0xFFFFFFFFu;
}

template <class T>
constexpr Kind kind_of() {
    return sizeof(T) == 4 ? Kind::float32 : Kind::float64;
}

class Weights {
public:
    explicit Weights(std::vector<char> content) : content_(std::move(content)) {
        const char* at = content_.data();
        constexpr size_t HEAD = 32;
        if (content_.size() < sizeof MAGIC || std::memcmp(at, MAGIC, sizeof MAGIC) != 0)
            throw std::runtime_error("is no file that 'eip export MODEL --for lammps' wrote");
        if (content_.size() < HEAD) throw std::runtime_error("is cut off");
        int64_t head[3];
        std::memcpy(head, at + sizeof MAGIC, sizeof head);
        if (head[0] != FILE_VERSION)
            throw std::runtime_error("has layout " + std::to_string(head[0]) +
                                     ", and this plugin reads layout " +
                                     std::to_string(FILE_VERSION) +
                                     "; export and build with the same eIP");
        if (static_cast<int64_t>(content_.size() - HEAD) != head[1])
            throw std::runtime_error("is cut off or too long: " +
                                     std::to_string(content_.size() - HEAD) + " bytes of " +
                                     std::to_string(head[1]));
        if (crc32(at + HEAD, head[1]) != static_cast<uint32_t>(head[2]))
            throw std::runtime_error("is damaged: its checksum is not that of what was written");
        read(at + HEAD, at + content_.size());
    }
    Weights(const Weights&) = delete;
    Weights& operator=(const Weights&) = delete;

    bool has(const std::string& name) const { return arrays_.count(name) > 0; }

    const Array& array(const std::string& name) const {
        const auto found = arrays_.find(name);
        if (found == arrays_.end()) throw std::runtime_error("lacks '" + name + "'");
        return found->second;
    }

    std::string text(const std::string& name) const {
        const Array& found = of_kind(name, Kind::text);
        return std::string(found.data, found.count());
    }

    std::vector<double> doubles(const std::string& name) const {
        return values<double>(name);
    }
    double number(const std::string& name) const { return first(doubles(name), name); }

    int64_t whole(const std::string& name) const {
        const Array& found = of_kind(name, Kind::int64);
        std::vector<int64_t> all(found.count());
        std::memcpy(all.data(), found.data, all.size() * sizeof(int64_t));
        return first(all, name);
    }

    template <class T>
    std::vector<T> values(const std::string& name) const {
        const Array& found = of_kind(name, kind_of<T>());
        std::vector<T> all(found.count());
        std::memcpy(all.data(), found.data, all.size() * sizeof(T));
        return all;
    }

private:
    std::vector<char> content_;
    std::map<std::string, Array> arrays_;

    const Array& of_kind(const std::string& name, Kind kind) const {
        const Array& found = array(name);
        if (found.kind != kind) throw std::runtime_error("has '" + name + "' of another kind");
        return found;
    }

    template <class T>
    static T first(const std::vector<T>& all, const std::string& name) {
        if (all.size() != 1) throw std::runtime_error("has several of '" + name + "'");
        return all[0];
    }

    static int64_t size_of(Kind kind) {
        return kind == Kind::text ? 1 : kind == Kind::float32 ? 4 : 8;
    }

    void read(const char* at, const char* end) {
        const auto take = [&](int64_t bytes) {
            const int64_t whole = (bytes + 7) / 8 * 8;
            if (bytes < 0 || whole > end - at) throw std::runtime_error("is damaged");
            const char* here = at;
            at += whole;
            return here;
        };
        const auto number = [&] {
            int64_t value;
            std::memcpy(&value, take(sizeof value), sizeof value);
            return value;
        };
        while (at < end) {
            const int64_t length = number();
            const std::string name(take(length), length);
            Array found;
            found.kind = static_cast<Kind>(number());
            found.shape.resize(number());
            for (int64_t& axis : found.shape) axis = number();
            found.data = take(found.count() * size_of(found.kind));
            arrays_[name] = found;
        }
    }
};

}  // namespace eip
