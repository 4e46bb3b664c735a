// The coupling along edges (coupling.h) for training: sums, gradient, tangent, gradient of the tangent.
#include "coupling.h"

namespace {

using namespace coupling;

template <class T>
struct Problem {
    List<T> list;
    int F;
    int64_t knots;
    const T* table;
    int threads;

    int64_t size() const { return list.atoms * F; }
};

// The sums, or with `dots` their tangents.
template <class T, bool FIRST, bool TANGENT>
void sums(const Problem<T>& p, const NodeArrays<const T>& x, const NodeArrays<const T>& x_dot,
          const T* dot, const SumArrays<T>& out) {
    constexpr int L = Simd<T>::LANES, P = FIRST ? FIRST_PATHS : PATHS;
    std::vector<Tangent<T>> dots;
    if (TANGENT) dots = all_tangents(p.list, dot, p.threads);
    const int64_t size = p.size();
    for_blocks(p.list, p.threads, [&](int64_t start, int64_t stop) {
        for (int c = 0; c < p.F / L; c++) {
            const T* table = p.table + c * p.knots * P * L;
            for (int64_t i = start; i < stop; i++) {
                const Edge<T>* edges = p.list.edges + p.list.begin[i];
                const int64_t count = p.list.begin[i + 1] - p.list.begin[i];
                const int64_t own = i * p.F + c * L;
                if constexpr (TANGENT) {
                    Sums<Dual<vec<T>>> sum{};
                    for (int64_t n = 0; n < count; n++) {
                        const T* row = table + static_cast<ptrdiff_t>(edges[n].knot) * P * L;
                        const int64_t at = static_cast<int64_t>(edges[n].neighbor) * p.F + c * L;
                        Dual<T> d[3];
                        Dual<vec<T>> w[P];
                        Node<Dual<vec<T>>> node;
                        meet<T, P, 1>(edges[n], dots[p.list.begin[i] + n], row, d, w);
                        read<T, FIRST>(x, x_dot, size, at, node);
                        couple<T, FIRST>(d, w, node, sum);
                    }
                    write<T>(out, size, own, sum);
                } else {
                    write<T>(out, size, own,
                             sums_of<T, FIRST>(edges, count, table, x, nullptr, size, p.F, c));
                }
            }
        }
    });
}

// The gradient in what atoms say and in the edges' vectors.
template <class T, bool FIRST>
void gradient(const Problem<T>& p, const SumArrays<const T>& g, const NodeArrays<const T>& x,
              const NodeArrays<T>& to_x, T* to_vectors) {
    constexpr int L = Simd<T>::LANES, P = FIRST ? FIRST_PATHS : PATHS;
    const int64_t size = p.size();
    const List<T>& list = p.list;
    for_blocks(list, p.threads, [&](int64_t start, int64_t stop) {
        static thread_local std::vector<T> room;
        room.assign(4 * (list.begin[stop] - list.begin[start]), T(0));
        auto* g_edges = reinterpret_cast<T(*)[4]>(room.data()) - list.begin[start];
        for (int c = 0; c < p.F / L; c++) {
            const T* table = p.table + c * p.knots * P * L;
            for (int64_t j = start; j < stop; j++) {
                const int64_t own = j * p.F + c * L;
                Node<vec<T>> node;
                read<T, FIRST>(x, size, own, node);
                const auto to_node = gradients_of<T, FIRST>(
                    list.edges + list.begin[j], list.begin[j + 1] - list.begin[j], table, g, node,
                    size, p.F, c, g_edges + list.begin[j]);
                write<T, FIRST>(to_x, size, own, to_node);
            }
        }
        for (int64_t e = list.begin[start]; e < list.begin[stop]; e++)
            add_to_vector(list.edges[e], g_edges[e], to_vectors + 3 * list.edges[e].slot);
    });
}

// The gradient in what atoms say and in the table, or with TANGENT that of the tangent. Each thread owns
// chunks of the table, in `groups` copies for as many parts of the atoms, as in training.cpp.
template <class T, bool FIRST, bool TANGENT>
void table_gradient(const Problem<T>& p, const SumArrays<const T>& g, const NodeArrays<const T>& x,
                    const NodeArrays<const T>& x_dot, const T* dot, const NodeArrays<T>& to_x,
                    T* to_table, int64_t groups) {
    constexpr int L = Simd<T>::LANES, P = FIRST ? FIRST_PATHS : PATHS;
    typedef std::conditional_t<TANGENT, Dual<vec<T>>, vec<T>> N;
    typedef std::conditional_t<TANGENT, Dual<T>, T> R;
    const List<T>& list = p.list;
    std::vector<Tangent<T>> dots;
    if (TANGENT) dots = all_tangents(list, dot, p.threads);
    const int64_t chunks = p.F / L, rows = p.knots * P * L, size = p.size();
#pragma omp parallel for schedule(dynamic, 1) num_threads(p.threads)
    for (int64_t task = 0; task < chunks * groups; task++) {
        const int64_t c = task % chunks, group = task / chunks;
        const int64_t start = list.atoms * group / groups, stop = list.atoms * (group + 1) / groups;
        const T* table = p.table + c * rows;
        T* to = to_table + group * chunks * rows + c * rows;
        std::memset(to, 0, rows * sizeof(T));
        for (int64_t j = start; j < stop; j++) {
            const int64_t own = j * p.F + c * L;
            Node<N> node, to_node{};
            if constexpr (TANGENT)
                read<T, FIRST>(x, x_dot, size, own, node);
            else
                read<T, FIRST>(x, size, own, node);
            for (int64_t n = list.begin[j]; n < list.begin[j + 1]; n++) {
                const Edge<T>& e = list.edges[n];
                const ptrdiff_t row = static_cast<ptrdiff_t>(e.knot) * P * L;
                R d[3];
                N w[P], to_w[P], to_d[3];
                Sums<vec<T>> from;
                if constexpr (TANGENT)
                    meet<T, P, -1>(e, dots[n], table + row, d, w);
                else
                    meet<T, P, -1>(e, table + row, d, w);
                read<T>(g, size, static_cast<int64_t>(e.neighbor) * p.F + c * L, from);
                gradient_of<T, FIRST>(d, w, node, from, to_node, to_w, to_d);
                for (int q = 0; q < 4; q++)
                    for (int k = 0; k < P; k++) {
                        T* out = to + row + (q * P + k) * L;
                        if constexpr (TANGENT)
                            store<T>(out, load(out) + e.weight[q] * to_w[k].dot +
                                              dots[n].weight[q] * to_w[k].value);
                        else
                            store<T>(out, load(out) + e.weight[q] * to_w[k]);
                    }
            }
            write<T, FIRST>(to_x, size, own, to_node);
        }
    }
}

}  // namespace

#define PROBLEM(T)                                                                                 \
    Problem<T> {                                                                                   \
        {atoms, begin, static_cast<const Edge<T>*>(edges)}, static_cast<int>(F), knots, table,     \
            static_cast<int>(threads)                                                              \
    }
#define HEAD                                                                                       \
    int64_t atoms, const int64_t *begin, const void *edges, int64_t F, int64_t knots, int64_t threads
#define EXPORT(T, SUFFIX)                                                                          \
    extern "C" int64_t eip_lanes_##SUFFIX() { return Simd<T>::LANES; }                             \
    extern "C" void eip_couple_##SUFFIX(HEAD, const T* said, const T* v, const T* t,               \
                                        const T* table, T* s_out, T* v_out, T* t_out) {            \
        (v ? sums<T, false, false> : sums<T, true, false>)(PROBLEM(T), {said, v, t}, {}, nullptr,  \
                                                           {s_out, v_out, t_out});                 \
    }                                                                                              \
    extern "C" void eip_couple_tangent_##SUFFIX(                                                   \
        HEAD, const T* said, const T* said_dot, const T* v, const T* v_dot, const T* t,            \
        const T* t_dot, const T* table, const T* dot, T* s_out, T* v_out, T* t_out) {              \
        (v ? sums<T, false, true> : sums<T, true, true>)(PROBLEM(T), {said, v, t},                 \
                                                         {said_dot, v_dot, t_dot}, dot,            \
                                                         {s_out, v_out, t_out});                   \
    }                                                                                              \
    extern "C" void eip_couple_gradient_##SUFFIX(HEAD, const T* g_s, const T* g_v, const T* g_t,   \
                                                 const T* said, const T* v, const T* t,            \
                                                 const T* table, T* to_said, T* to_v, T* to_t,     \
                                                 T* to_vectors) {                                  \
        (v ? gradient<T, false> : gradient<T, true>)(PROBLEM(T), {g_s, g_v, g_t}, {said, v, t},    \
                                                     {to_said, to_v, to_t}, to_vectors);           \
    }                                                                                              \
    extern "C" void eip_couple_table_gradient_##SUFFIX(                                            \
        HEAD, const T* g_s, const T* g_v, const T* g_t, const T* said, const T* said_dot,          \
        const T* v, const T* v_dot, const T* t, const T* t_dot, const T* table, const T* dot,      \
        T* to_said, T* to_v, T* to_t, T* to_table, int64_t groups) {                               \
        auto* work = dot ? (v ? table_gradient<T, false, true> : table_gradient<T, true, true>)    \
                         : (v ? table_gradient<T, false, false> : table_gradient<T, true, false>); \
        work(PROBLEM(T), {g_s, g_v, g_t}, {said, v, t}, {said_dot, v_dot, t_dot}, dot,             \
             {to_said, to_v, to_t}, to_table, groups);                                             \
    }

EXPORT(float, f32)
EXPORT(double, f64)
