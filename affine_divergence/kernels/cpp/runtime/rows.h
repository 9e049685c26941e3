// Rows in memory: shared by the generated kernels for the CPU.
//
// Compile with -DELEMENT=float, double or Bfloat16: the type of the input. Arithmetic is in `Wide`: the same type, or
// float for 16 bits. Threads share the rows; within a row the compiler may sum in parts. Both orders depend only on the
// lengths and the number of threads, so that equal inputs give equal bits.

#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

#include <type_traits>
#include <vector>

#define KERNEL extern "C" __attribute__((visibility("default"))) void

// A kernel that returns whether a row has entries whose products may leave the range.
#define TELLS extern "C" __attribute__((visibility("default"))) int

namespace kernels {

typedef long long Offset;

// The upper half of a float.
struct Bfloat16 {
    uint16_t bits;

    Bfloat16() = default;

    Bfloat16(float value) : bits(nearest(value)) {}

    // Without an intermediate value, which compilers would copy one at a time.
    Bfloat16& operator=(float value) {
        bits = nearest(value);
        return *this;
    }

    // Rounds to nearest, ties to even; a NaN stays a NaN.
    static uint16_t nearest(float value) {
        uint32_t all;
        memcpy(&all, &value, sizeof all);
        return uint16_t((value != value ? 0x7fc00000u : all + 0x7fffu + (all >> 16 & 1)) >> 16);
    }

    operator float() const {
        const uint32_t all = uint32_t(bits) << 16;
        float value;
        memcpy(&value, &all, sizeof value);
        return value;
    }
};

typedef ELEMENT Element;
typedef std::conditional<sizeof(ELEMENT) == 2, float, ELEMENT>::type Wide;
typedef std::conditional<sizeof(Wide) == 8, uint64_t, uint32_t>::type Bits;

inline Wide widen(Wide value) { return value; }

inline Wide infinity() { return Wide(INFINITY); }

inline Wide sign(Wide value) { return Wide((value > 0) - (value < 0)); }

inline Wide heaviside(Wide value) { return (sign(value) + 1) / 2; }

// One instruction; the library's function also handles NaNs.
inline Wide fmax(Wide a, Wide b) { return a > b ? a : b; }

inline Wide fmin(Wide a, Wide b) { return a < b ? a : b; }

// Prefetch the next row, for which a core would otherwise wait.
inline void ahead(const Element* row, Offset length) {
    constexpr Offset line = 64 / sizeof(Element);
    for (Offset k = 0; k < length; k += line) __builtin_prefetch(row + length + k);
}

// A row belongs to one thread, which has its complete sum.
inline Wide row_sum(Wide value) { return value; }

inline Wide row_largest(Wide value) { return value; }

// A power of two near the largest absolute value of a row, to divide by without rounding: neither it nor its square is
// zero, and it is finite. A NaN or an infinity in the row still propagates to the quotients.
inline Wide magnitude(Wide largest) {
    constexpr bool twice = sizeof(Wide) == 8;
    constexpr Bits exponent = twice ? Bits(0x7ff) << (twice ? 52 : 0) : Bits(0x7f800000);
    Bits bits;
    memcpy(&bits, &largest, sizeof bits);
    bits &= exponent;
    memcpy(&largest, &bits, sizeof bits);
    return fmin(fmax(largest, twice ? Wide(0x1p-511) : Wide(0x1p-63)), twice ? Wide(0x1p1022) : Wide(0x1p126));
}

// Whether a sum of squares shows that no square overflowed, and none that matters underflowed. False for NaN.
inline bool in_range(Wide sum) {
    constexpr bool twice = sizeof(Wide) == 8;
    return sum > (twice ? Wide(0x1p-800) : Wide(0x1p-80)) && sum < (twice ? Wide(0x1p900) : Wide(0x1p100));
}

constexpr Offset ADDED = 256;  // entries of a row that are summed in Wide; the sums of such parts are added in double

constexpr Offset FEW = 64;  // rows that are summed in Wide, as above

constexpr int TOGETHER = 4;  // rows processed at once in a sum over rows, with each column's part in a register

struct One {
    static constexpr int rows = 1;
};

struct Several {
    static constexpr int rows = TOGETHER;
};

// Let `share(first, end, sums)` add rows to the columns of `sums`, a few at a time: each thread has a share of the rows.
// Sums of a few rows, and then the shares, are added in double, so a million rows lose no more digits than a few.
template <typename Share, typename Number>
inline void over_shares(Offset rows, Offset width, int threads, Number* total, const Share& share) {
    std::vector<double> shares(threads * width);
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
    for (int part = 0; part < threads; ++part) {
        std::vector<Wide> sums(width);
        double* const own = shares.data() + part * width;
        const Offset last = rows * (part + 1) / threads;
        for (Offset row = rows * part / threads; row < last; row += FEW) {
            share(row, row + FEW < last ? row + FEW : last, sums.data());
            for (Offset column = 0; column < width; ++column) {
                own[column] += sums[column];
                sums[column] = 0;
            }
        }
    }
    for (Offset column = 0; column < width; ++column) {
        double sum = 0;
        for (int part = 0; part < threads; ++part) sum += shares[part * width + column];
        total[column] = Number(sum);
    }
}

// Let `add(group, row, sums)` add groups of rows.
template <typename Add, typename Number>
inline void over_columns(Offset rows, Offset width, int threads, Number* total, const Add& add) {
    over_shares(rows, width, threads, total, [&](Offset row, const Offset end, Wide* const sums) {
        for (; row + TOGETHER <= end; row += TOGETHER) add(Several(), row, sums);
        for (; row < end; ++row) add(One(), row, sums);
    });
}

// Let `add(row, sums)` add one row and do any other work on it.
template <typename Add, typename Number>
inline void over_rows(Offset rows, Offset width, int threads, Number* total, const Add& add) {
    over_shares(rows, width, threads, total, [&](Offset row, const Offset end, Wide* const sums) {
        for (; row < end; ++row) add(row, sums);
    });
}

}  // namespace kernels
