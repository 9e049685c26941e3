// Patches of images in memory: what the generated kernels for convolutions on the CPU share.
//
// Compile with -DELEMENT=float or double: the type of the input, in which the sums of a convolution are taken. One number
// a position is `Wide`, where squares and cubes of what a float holds do not leave the range.
//
// Products of matrices are taken in tiles that fit the registers. Where entries lie in memory: see patch_layout.h.
//
// Groups come one after the other. Threads share the images. The order of every sum follows from the lengths and the
// number of threads: the same input gives the same bits.

#pragma once

#include <math.h>

#include <algorithm>
#include <atomic>
#include <vector>

#define KERNEL extern "C" __attribute__((visibility("default"))) void

namespace kernels {

typedef long long Offset;
typedef ELEMENT Element;
typedef double Wide;

#if defined(__AVX512F__)
constexpr int BYTES = 64, ACROSS = 3, DOWN = 8, SPAN = 4, ENTRIES = 6;
#elif defined(__AVX__)
constexpr int BYTES = 32, ACROSS = 3, DOWN = 4, SPAN = 2, ENTRIES = 6;
#elif defined(__aarch64__)
constexpr int BYTES = 16, ACROSS = 3, DOWN = 8, SPAN = 4, ENTRIES = 6;
#else
constexpr int BYTES = 16, ACROSS = 3, DOWN = 4, SPAN = 2, ENTRIES = 6;
#endif
// ACROSS registers of the line by DOWN channels are one tile; SPAN registers of channels by ENTRIES of a kernel another.
constexpr int LANES = BYTES / sizeof(Element);
constexpr Offset TOGETHER = 2 * ACROSS;  // registers of positions, whose gradients stay in a near cache
constexpr Offset PANEL = TOGETHER * LANES;
constexpr Offset STRIPE = 8 * ACROSS;  // registers of positions, whose entries stay in a cache that is larger
constexpr Offset CACHE_LINE = 64 / sizeof(Element);

typedef Element Vector __attribute__((vector_size(BYTES)));
typedef Element Loose __attribute__((vector_size(BYTES), aligned(sizeof(Element)), may_alias));
typedef Wide WideVector __attribute__((vector_size(BYTES)));
typedef Wide LooseWide __attribute__((vector_size(BYTES), aligned(sizeof(Wide)), may_alias));
constexpr int WIDE_LANES = BYTES / sizeof(Wide), WIDES = LANES / WIDE_LANES;  // registers of Wide beside one of Element

inline Vector load(const Element* from) { return *(const Loose*)from; }

inline void store(Element* to, Vector value) { *(Loose*)to = value; }

// Copy some numbers, mostly as many as a register holds: a call of the library's function would take longer.
template <typename Number>
inline void copy(const Number* from, Offset count, Number* to) {
    Offset i = 0;
    for (; i + LANES <= count; i += LANES)
        for (int j = 0; j < LANES; ++j) to[i + j] = from[i + j];
    for (; i < count; ++i) to[i] = from[i];
}

// From this sum of squares on, products with a patch of floats may leave the range.
constexpr Wide FAR = sizeof(Element) == 4 ? Wide(0x1p119) : Wide(INFINITY);

inline Wide infinity() { return INFINITY; }

constexpr Wide LEFTOVER = 1 / Wide(1LL << 39);  // what rounding may leave of a sum of squares: epsilon ** 0.75 of Wide

inline Offset up(Offset n, Offset to) { return (n + to - 1) / to * to; }

}  // namespace kernels
