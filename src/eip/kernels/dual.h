// Dual numbers, value + ε dot with ε² = 0: a function of them gives its derivative along the dots.
//
// Written once for any kind of number, a sum or its gradient so gives its own tangent too. The parts
// may be vectors of channels or single numbers, and a plain number has no dot.
#pragma once

template <class A>
struct Dual {
    A value, dot;
};

template <class A, class B>
static inline auto operator*(const Dual<A>& a, const Dual<B>& b) -> Dual<decltype(a.value * b.value)> {
    return {a.value * b.value, a.value * b.dot + a.dot * b.value};
}
template <class A, class B>
static inline auto operator*(const Dual<A>& a, const B& b) -> Dual<decltype(a.value * b)> {
    return {a.value * b, a.dot * b};
}
template <class A, class B>
static inline auto operator*(const A& a, const Dual<B>& b) -> Dual<decltype(a * b.value)> {
    return {a * b.value, a * b.dot};
}
template <class A>
static inline Dual<A> operator+(const Dual<A>& a, const Dual<A>& b) {
    return {a.value + b.value, a.dot + b.dot};
}
template <class A>
static inline Dual<A> operator-(const Dual<A>& a, const Dual<A>& b) {
    return {a.value - b.value, a.dot - b.dot};
}
template <class A>
static inline Dual<A> operator-(const Dual<A>& a) {
    return {-a.value, -a.dot};
}
template <class A>
static inline void operator+=(Dual<A>& a, const Dual<A>& b) {
    a.value += b.value;
    a.dot += b.dot;
}
template <class A>
static inline void operator-=(Dual<A>& a, const Dual<A>& b) {
    a.value -= b.value;
    a.dot -= b.dot;
}

// The part that a tangent is after, of a plain number itself.
template <class A>
static inline const A& dot_or_self(const A& a) {
    return a;
}
template <class A>
static inline const A& dot_or_self(const Dual<A>& a) {
    return a.dot;
}

// A plain number moves the value alone.
template <class A>
static inline void add_plain(A& a, const A& b) {
    a += b;
}
template <class A>
static inline void add_plain(Dual<A>& a, const A& b) {
    a.value += b;
}
