#include "halo.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <tuple>

namespace eip {

Halo::~Halo() {
    if (world_ != MPI_COMM_NULL) MPI_Comm_free(&world_);
}

void Halo::find(MPI_Comm world, int own, const std::vector<Place>& places, const std::vector<char>& seen) {
    // Messages of our own, which nobody else's can be taken for.
    if (world_ == MPI_COMM_NULL) MPI_Comm_dup(world, &world_);
    int me, processes;
    MPI_Comm_rank(world_, &me);
    MPI_Comm_size(world_, &processes);
    own_ = own;
    rows_.assign(places.size(), -1);
    std::iota(rows_.begin(), rows_.begin() + own, 0);

    // Ghosts of others, all images of an atom together, by the process that it is at home on.
    std::vector<int> foreign;
    for (int j = own; j < static_cast<int>(places.size()); j++) {
        if (!seen[j]) continue;
        if (places[j].process == me)
            rows_[j] = places[j].index;
        else
            foreign.push_back(j);
    }
    const auto home = [&](int j) { return std::tie(places[j].process, places[j].index); };
    std::sort(foreign.begin(), foreign.end(), [&](int a, int b) { return home(a) < home(b); });
    atoms_.clear();
    std::vector<int> wanted, counts(processes, 0), asked(processes);
    for (int j : foreign) {
        if (atoms_.empty() || home(atoms_.back()) != home(j)) {
            atoms_.push_back(j);
            wanted.push_back(places[j].index);
            counts[places[j].process]++;
        }
        rows_[j] = held() - 1;
    }

    // Each says to each which of its atoms it wants.
    MPI_Alltoall(counts.data(), 1, MPI_INT, asked.data(), 1, MPI_INT, world_);
    const auto starts = [&](const std::vector<int>& of) {
        std::vector<int> at(processes, 0);
        std::partial_sum(of.begin(), of.end() - 1, at.begin() + 1);
        return at;
    };
    const std::vector<int> from = starts(counts), to = starts(asked);
    std::vector<int> sent(to.back() + asked.back());
    MPI_Alltoallv(wanted.data(), counts.data(), from.data(), MPI_INT, sent.data(), asked.data(), to.data(),
                  MPI_INT, world_);
    peers_.clear();
    for (int p = 0; p < processes; p++)
        if (counts[p] || asked[p])
            peers_.push_back({p, {sent.begin() + to[p], sent.begin() + to[p] + asked[p]}, own_ + from[p], counts[p]});
    sent_.resize(peers_.size());
}

void Halo::rows(char* data, int components, int64_t stride, int64_t row) {
    std::vector<MPI_Request> requests;
    requests.reserve(2 * peers_.size());
    for (const Peer& peer : peers_) {
        if (!peer.count) continue;
        // To where they belong, without a stop on the way.
        MPI_Datatype rows;
        MPI_Type_create_hvector(components, static_cast<int>(peer.count * row), stride, MPI_BYTE, &rows);
        MPI_Type_commit(&rows);
        requests.emplace_back();
        MPI_Irecv(data + peer.first * row, 1, rows, peer.process, 0, world_, &requests.back());
        MPI_Type_free(&rows);
    }
    for (size_t p = 0; p < peers_.size(); p++) {
        const Peer& peer = peers_[p];
        if (peer.sent.empty()) continue;
        const int64_t size = components * static_cast<int64_t>(peer.sent.size()) * row;
        if (static_cast<int64_t>(sent_[p].size()) < size) sent_[p].resize(size);
        char* to = sent_[p].data();
        for (int c = 0; c < components; c++)
            for (int i : peer.sent) {
                std::memcpy(to, data + c * stride + i * row, row);
                to += row;
            }
        requests.emplace_back();
        MPI_Isend(sent_[p].data(), static_cast<int>(size), MPI_BYTE, peer.process, 0, world_, &requests.back());
    }
    MPI_Waitall(static_cast<int>(requests.size()), requests.data(), MPI_STATUSES_IGNORE);
}

double Halo::bytes() const {
    double all = sizeof(int64_t) * rows_.capacity() + sizeof(int) * atoms_.capacity();
    for (const auto& buffer : sent_) all += buffer.capacity();
    return all;
}

}  // namespace eip
