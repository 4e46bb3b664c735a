// PaiNN's message with what training needs: its gradient, and the gradient of that.
//
// The loss holds forces, which are a gradient of the energy; its own gradient so meets the second
// derivative of each message. With ˙ for the directions in which the first gradient is differentiated,
//
//     S = d/dε L(φ + ε φ̇, v + ε v̇, d + ε ḋ),    L = Σ g_s · s + g_v · v,
//
// the derivative of S in (g_s, g_v) is the tangent of the message (`tangent`), and the one in (φ, v, W)
// the tangent of its gradient (`tangent_gradient`). As for the gradient, every atom gathers, and the
// list's symmetry is used: d and ḋ change sign from an edge to its reverse.
#include "message.h"
#include "tangent.h"

namespace {

template <class T>
vec<T> combine(const T* weight, const T* row, int C) {
    return weight[0] * load(row) + weight[1] * load(row + 3 * C) + weight[2] * load(row + 6 * C) +
           weight[3] * load(row + 9 * C);
}

// Derivatives of S in g_s and g_v of one atom, one chunk.
template <class T, int V>
void tangents(const Edge<T>* edges, const Tangent<T>* dots, int count, const T* phi, const T* phi_dot,
              const T* v, const T* v_dot, const T* table, int F, T* s_out, T* v_out) {
    constexpr int L = Simd<T>::LANES, C = V * L;
    vec<T> sum_s[V], sum_v[3][V];
    for (int u = 0; u < V; u++) {
        sum_s[u] = vec<T>{};
        for (int k = 0; k < 3; k++) sum_v[k][u] = vec<T>{};
    }
    for (int n = 0; n < count; n++) {
        const Edge<T>& e = edges[n];
        const Tangent<T>& dot = dots[n];
        const int64_t j = e.neighbor;
        const T *p = phi + j * 3 * F, *p_dot = phi_dot + j * 3 * F;
        const T *vj = v + j * 3 * F, *vj_dot = v_dot + j * 3 * F;
        const T* t = table + static_cast<ptrdiff_t>(e.knot) * 3 * C;
        for (int u = 0; u < V; u++) {
            vec<T> still[3], moving[3];  // φ ∘ W, and φ̇ ∘ W + φ ∘ Ẇ
            for (int part = 0; part < 3; part++) {
                const T* q = t + part * C + u * L;
                const vec<T> w = combine(e.weight, q, C), w_dot = combine(dot.weight, q, C);
                const vec<T> x = load(p + part * C + u * L);
                still[part] = x * w;
                moving[part] = load(p_dot + part * C + u * L) * w + x * w_dot;
            }
            sum_s[u] += moving[0];
            for (int k = 0; k < 3; k++)
                sum_v[k][u] += moving[1] * e.direction[k] + still[1] * dot.direction[k] +
                               moving[2] * load(vj + k * F + u * L) +
                               still[2] * load(vj_dot + k * F + u * L);
        }
    }
    for (int u = 0; u < V; u++) {
        store(s_out + u * L, sum_s[u]);
        for (int k = 0; k < 3; k++) store(v_out + k * F + u * L, sum_v[k][u]);
    }
}

// Gradient in φ, v and the table of one atom, one chunk. With TANGENT, the derivatives of S; without,
// those of L, where the dotted ones are none. to_table is added to, the others overwritten.
template <class T, int V, bool TANGENT>
void table_gradients(const Edge<T>* edges, const Tangent<T>* dots, int count, const T* g_s,
                     const T* g_v, const T* phi, const T* phi_dot, const T* v, const T* v_dot,
                     const T* table, int F, T* to_phi, T* to_v, T* to_table) {
    constexpr int L = Simd<T>::LANES, C = V * L;
    vec<T> to_a[V], to_b[V], gathered[3][V], gathered_dot[3][V];
    for (int u = 0; u < V; u++) {
        to_a[u] = to_b[u] = vec<T>{};
        for (int k = 0; k < 3; k++) gathered[k][u] = gathered_dot[k][u] = vec<T>{};
    }
    for (int n = 0; n < count; n++) {
        const Edge<T>& e = edges[n];
        const int64_t i = e.neighbor;
        const ptrdiff_t row = static_cast<ptrdiff_t>(e.knot) * 3 * C;
        for (int u = 0; u < V; u++) {
            const vec<T> gs = load(g_s + i * F + u * L);
            vec<T> gv[3], w[3], w_dot[3];
            for (int k = 0; k < 3; k++) gv[k] = load(g_v + (i * 3 + k) * F + u * L);
            for (int part = 0; part < 3; part++) {
                const T* q = table + row + part * C + u * L;
                w[part] = combine(e.weight, q, C);
                if (TANGENT) w_dot[part] = combine(dots[n].weight, q, C);
            }
            vec<T> toward{}, toward_dot{}, overlap{}, overlap_dot{};
            for (int k = 0; k < 3; k++) {
                toward -= e.direction[k] * gv[k];
                overlap += gv[k] * load(v + k * F + u * L);
                gathered[k][u] += w[2] * gv[k];
                if (TANGENT) {
                    toward_dot -= dots[n].direction[k] * gv[k];
                    overlap_dot += gv[k] * load(v_dot + k * F + u * L);
                    gathered_dot[k][u] += w_dot[2] * gv[k];
                }
            }
            const vec<T> a = load(phi + u * L), b = load(phi + C + u * L), c = load(phi + 2 * C + u * L);
            const vec<T> plain[3] = {gs * a, toward * b, overlap * c};
            vec<T> value[3];
            if (TANGENT) {
                to_a[u] += w_dot[0] * gs;
                to_b[u] += w_dot[1] * toward + w[1] * toward_dot;
                value[0] = gs * load(phi_dot + u * L);
                value[1] = toward * load(phi_dot + C + u * L) + toward_dot * b;
                value[2] = overlap * load(phi_dot + 2 * C + u * L) + overlap_dot * c;
            } else {
                to_a[u] += w[0] * gs;
                to_b[u] += w[1] * toward;
            }
            for (int part = 0; part < 3; part++)
                for (int q = 0; q < 4; q++) {
                    T* out = to_table + row + (q * 3 + part) * C + u * L;
                    if (TANGENT)
                        store<T>(out, load(out) + e.weight[q] * value[part] +
                                          dots[n].weight[q] * plain[part]);
                    else
                        store<T>(out, load(out) + e.weight[q] * plain[part]);
                }
        }
    }
    for (int u = 0; u < V; u++) {
        const vec<T> c = load(phi + 2 * C + u * L);
        vec<T> to_c{};
        for (int k = 0; k < 3; k++) {
            const int at = k * F + u * L;
            if (TANGENT) {
                to_c += gathered_dot[k][u] * load(v + at) + gathered[k][u] * load(v_dot + at);
                store<T>(to_v + at, load(phi_dot + 2 * C + u * L) * gathered[k][u] +
                                        c * gathered_dot[k][u]);
            } else {
                to_c += gathered[k][u] * load(v + at);
                store<T>(to_v + at, c * gathered[k][u]);
            }
        }
        store(to_phi + u * L, to_a[u]);
        store(to_phi + C + u * L, to_b[u]);
        store(to_phi + 2 * C + u * L, to_c);
    }
}

template <class T, int V>
void message(const List<T>& list, int F, int64_t knots, const T* phi, const T* v, const T* table,
             T* s_out, T* v_out, int threads) {
    constexpr int C = V * Simd<T>::LANES;
    for_blocks(list, threads, [&](int64_t start, int64_t stop) {
        for (int c = 0; c < F / C; c++)
            for (int64_t i = start; i < stop; i++)
                messages<T, V, true>(list.edges + list.begin[i],
                                     static_cast<int>(list.begin[i + 1] - list.begin[i]),
                                     phi + c * 3 * C, nullptr, v + c * C, table + c * knots * 3 * C,
                                     F, s_out + i * F + c * C, v_out + i * 3 * F + c * C);
    });
}

template <class T, int V>
void gradient(const List<T>& list, int F, int64_t knots, const T* g_s, const T* g_v, const T* phi,
              const T* v, const T* table, T* to_phi, T* to_v, T* to_vectors, int threads) {
    constexpr int C = V * Simd<T>::LANES;
    for_blocks(list, threads, [&](int64_t start, int64_t stop) {
        static thread_local std::vector<T> room;
        room.assign(4 * (list.begin[stop] - list.begin[start]), T(0));
        auto* g_edges = reinterpret_cast<T(*)[4]>(room.data()) - list.begin[start];
        for (int c = 0; c < F / C; c++)
            for (int64_t i = start; i < stop; i++)
                message_gradients<T, V, true>(
                    list.edges + list.begin[i], static_cast<int>(list.begin[i + 1] - list.begin[i]),
                    g_s + c * C, g_v + c * C, phi + i * 3 * F + c * 3 * C, v + i * 3 * F + c * C,
                    table + c * knots * 3 * C, F, to_phi + i * 3 * F + c * 3 * C,
                    to_v + i * 3 * F + c * C, g_edges + list.begin[i]);
        for (int64_t e = list.begin[start]; e < list.begin[stop]; e++)
            add_to_vector(list.edges[e], g_edges[e], to_vectors + 3 * list.edges[e].slot);
    });
}

template <class T, int V>
void tangent(const List<T>& list, int F, int64_t knots, const T* phi, const T* phi_dot, const T* v,
             const T* v_dot, const T* table, const T* dot, T* s_out, T* v_out, int threads) {
    constexpr int C = V * Simd<T>::LANES;
    const auto dots = all_tangents(list, dot, threads);
    for_blocks(list, threads, [&](int64_t start, int64_t stop) {
        for (int c = 0; c < F / C; c++)
            for (int64_t i = start; i < stop; i++)
                tangents<T, V>(list.edges + list.begin[i], dots.data() + list.begin[i],
                               static_cast<int>(list.begin[i + 1] - list.begin[i]), phi + c * 3 * C,
                               phi_dot + c * 3 * C, v + c * C, v_dot + c * C,
                               table + c * knots * 3 * C, F, s_out + i * F + c * C,
                               v_out + i * 3 * F + c * C);
    });
}

// Each thread owns chunks of the table, in `groups` copies for as many parts of the atoms: nothing
// is written by two, and the order of sums does not depend on how many threads there are.
template <class T, int V, bool TANGENT>
void table_gradient(const List<T>& list, int F, int64_t knots, const T* g_s, const T* g_v,
                    const T* phi, const T* phi_dot, const T* v, const T* v_dot, const T* table,
                    const T* dot, T* to_phi, T* to_v, T* to_table, int64_t groups, int threads) {
    constexpr int C = V * Simd<T>::LANES;
    std::vector<Tangent<T>> dots;
    if (TANGENT) dots = all_tangents(list, dot, threads);
    const int64_t chunks = F / C, size = chunks * knots * 3 * C;
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
    for (int64_t task = 0; task < chunks * groups; task++) {
        const int64_t c = task % chunks, group = task / chunks;
        const int64_t start = list.atoms * group / groups, stop = list.atoms * (group + 1) / groups;
        T* own = to_table + group * size + c * knots * 3 * C;
        std::memset(own, 0, knots * 3 * C * sizeof(T));
        for (int64_t i = start; i < stop; i++)
            table_gradients<T, V, TANGENT>(
                list.edges + list.begin[i], dots.data() + list.begin[i],
                static_cast<int>(list.begin[i + 1] - list.begin[i]), g_s + c * C, g_v + c * C,
                phi + i * 3 * F + c * 3 * C, phi_dot + (TANGENT ? i * 3 * F + c * 3 * C : 0),
                v + i * 3 * F + c * C, v_dot + (TANGENT ? i * 3 * F + c * C : 0),
                table + c * knots * 3 * C, F, to_phi + i * 3 * F + c * 3 * C,
                to_v + i * 3 * F + c * C, own);
    }
}

template <class T>
int64_t list_edges(int64_t atoms, const int64_t* first, const int64_t* neighbors, const T* vectors,
                   double cutoff, int64_t intervals, int64_t* begin, Edge<T>* edges) {
    const Graph<T> graph{atoms,   first, neighbors, vectors, static_cast<T>(cutoff),
                         static_cast<int>(intervals)};
    Lengths<T> lengths;
    begin[0] = 0;
    for (int64_t i = 0; i < atoms; i++)
        begin[i + 1] = begin[i] + edges_of(graph, i, edges + begin[i], lengths);
    return begin[atoms];
}

}  // namespace

#define LIST(T) (List<T>{atoms, begin, static_cast<const Edge<T>*>(edges)})
#define EXPORT(T, SUFFIX)                                                                          \
    extern "C" int64_t eip_edge_bytes_##SUFFIX() { return sizeof(Edge<T>); }                       \
    extern "C" void eip_list_edges_##SUFFIX(int64_t atoms, const int64_t* first,                   \
                                            const int64_t* neighbors, const T* vectors,            \
                                            double cutoff, int64_t intervals, int64_t* begin,      \
                                            void* edges) {                                         \
        list_edges<T>(atoms, first, neighbors, vectors, cutoff, intervals, begin,                  \
                      static_cast<Edge<T>*>(edges));                                               \
    }                                                                                              \
    extern "C" void eip_message_##SUFFIX(int64_t atoms, const int64_t* begin, const void* edges,   \
                                         int64_t F, int64_t knots, int64_t threads, const T* phi,  \
                                         const T* v, const T* table, T* s_out, T* v_out) {         \
        (by_two<T>(F) ? message<T, 2> : message<T, 1>)(                                            \
            LIST(T), static_cast<int>(F), knots, phi, v, table, s_out, v_out,                      \
            static_cast<int>(threads));                                                            \
    }                                                                                              \
    extern "C" void eip_message_gradient_##SUFFIX(                                                 \
        int64_t atoms, const int64_t* begin, const void* edges, int64_t F, int64_t knots,          \
        int64_t threads, const T* g_s, const T* g_v, const T* phi, const T* v, const T* table,     \
        T* to_phi, T* to_v, T* to_vectors) {                                                       \
        (by_two<T>(F) ? gradient<T, 2> : gradient<T, 1>)(                                          \
            LIST(T), static_cast<int>(F), knots, g_s, g_v, phi, v, table, to_phi, to_v,            \
            to_vectors, static_cast<int>(threads));                                                \
    }                                                                                              \
    extern "C" void eip_message_tangent_##SUFFIX(                                                  \
        int64_t atoms, const int64_t* begin, const void* edges, int64_t F, int64_t knots,          \
        int64_t threads, const T* phi, const T* phi_dot, const T* v, const T* v_dot,               \
        const T* table, const T* dot, T* s_out, T* v_out) {                                        \
        (by_two<T>(F) ? tangent<T, 2> : tangent<T, 1>)(                                            \
            LIST(T), static_cast<int>(F), knots, phi, phi_dot, v, v_dot, table, dot, s_out, v_out, \
            static_cast<int>(threads));                                                            \
    }                                                                                              \
    extern "C" void eip_table_gradient_##SUFFIX(                                                   \
        int64_t atoms, const int64_t* begin, const void* edges, int64_t F, int64_t knots,          \
        int64_t threads, const T* g_s, const T* g_v, const T* phi, const T* phi_dot, const T* v,   \
        const T* v_dot, const T* table, const T* dot, T* to_phi, T* to_v, T* to_table,             \
        int64_t groups) {                                                                          \
        auto* work = phi_dot ? (by_two<T>(F) ? table_gradient<T, 2, true>                          \
                                             : table_gradient<T, 1, true>)                         \
                             : (by_two<T>(F) ? table_gradient<T, 2, false>                         \
                                             : table_gradient<T, 1, false>);                       \
        work(LIST(T), static_cast<int>(F), knots, g_s, g_v, phi, phi_dot, v, v_dot, table, dot,    \
             to_phi, to_v, to_table, groups, static_cast<int>(threads));                           \
    }

EXPORT(float, f32)
EXPORT(double, f64)
