// Patches of images: shared by the generated kernels for convolutions on the CPU.
//
// Compile with -DELEMENT=float or double: the type of the input and of the sums of a convolution. Numbers per position
// are `Wide`, in which squares and cubes of floats stay in range.
//
// Matrix products are computed in tiles that fit the registers. For the layout in memory see patch_layout.h.
//
// Groups are processed one after the other, and threads share the images. The order of every sum depends only on the
// lengths and the number of threads, so that equal inputs give equal bits.

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
// Tiles: ACROSS registers of the line by DOWN channels, and SPAN registers of channels by ENTRIES of a filter.
constexpr int LANES = BYTES / sizeof(Element);
constexpr Offset TOGETHER = 2 * ACROSS;  // registers of positions, whose gradients fit a near cache
constexpr Offset PANEL = TOGETHER * LANES;
constexpr Offset STRIPE = 8 * ACROSS;  // registers of positions, whose entries fit a larger cache
constexpr Offset CACHE_LINE = 64 / sizeof(Element);

typedef Element Vector __attribute__((vector_size(BYTES)));
typedef Element Loose __attribute__((vector_size(BYTES), aligned(sizeof(Element)), may_alias));
typedef Wide WideVector __attribute__((vector_size(BYTES)));
typedef Wide LooseWide __attribute__((vector_size(BYTES), aligned(sizeof(Wide)), may_alias));
constexpr int WIDE_LANES = BYTES / sizeof(Wide), WIDES = LANES / WIDE_LANES;  // registers of Wide per register of Element

inline Vector load(const Element* from) { return *(const Loose*)from; }

inline void store(Element* to, Vector value) { *(Loose*)to = value; }

// Copy some entries, mostly one register's: faster than a call of the library's function.
template <typename Number>
inline void copy(const Number* from, Offset count, Number* to) {
    Offset i = 0;
    for (; i + LANES <= count; i += LANES)
        for (int j = 0; j < LANES; ++j) to[i + j] = from[i + j];
    for (; i < count; ++i) to[i] = from[i];
}

// For patches of floats with at least this sum of squares, products may leave the range.
constexpr Wide FAR = sizeof(Element) == 4 ? Wide(0x1p119) : Wide(INFINITY);

inline Wide infinity() { return INFINITY; }

constexpr Wide LEFTOVER = 1 / Wide(1LL << 39);  // largest relative rounding error of a sum of squares: epsilon ** 0.75 of Wide

inline Offset up(Offset n, Offset to) { return (n + to - 1) / to * to; }

}  // namespace kernels
