// Patches of images in memory: what the generated kernels for convolutions on the CPU share.
//
// Compile with -DELEMENT=float or double: the type of the input, in which the sums of a convolution are taken. One number
// a position is `Wide`, where squares and cubes of what a float holds do not leave the range.
//
// An image is copied with its padding into rows of one length; where a kernel takes steps of more than one, entries with
// one remainder lie side by side. The positions of a kernel then lie in one line, and entry k of all patches is the line
// that begins at offset[k], none further on than `reach`. Registers cover the line, or each row of positions; what they hold between two rows is not
// read, and the gradient with respect to the output is zero there. Products of matrices are taken in tiles that fit the registers.
//
// Groups come one after the other. Threads share the images. The order of every sum follows from the lengths and the number of threads: the same input
// gives the same bits.

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

inline Vector load(const Element* from) { return *(const Loose*)from; }

inline void store(Element* to, Vector value) { *(Loose*)to = value; }

// From this sum of squares on, products with a patch of floats may leave the range.
constexpr Wide FAR = sizeof(Element) == 4 ? Wide(0x1p119) : Wide(INFINITY);

inline Wide infinity() { return INFINITY; }

constexpr Wide LEFTOVER = 1 / Wide(1LL << 39);  // what rounding may leave of a sum of squares: epsilon ** 0.75 of Wide

inline Offset up(Offset n, Offset to) { return (n + to - 1) / to * to; }

// How far entries lie apart: images, groups, channels, and neighbours along three axes of space.
struct Steps {
    Offset image, group, channel, axis[3];
};

// Whole numbers from Python; `inputs` and `outputs` are the channels of one group. `room` is how many numbers of scratch memory a kernel wants, which it says if it gets none.
struct Given {
    Offset images, groups, inputs, outputs, length[3], positions[3], kernel[3], stride[3], padding[3], dilation[3];
    Steps x, z, dx;
    Offset room;
};

// Return how many entries a patch has.
inline Wide entries_of(const Given& given) {
    return Wide(given.inputs * given.kernel[0] * given.kernel[1] * given.kernel[2]);
}

// Return where row `row` of an image begins whose second axis has `length` rows.
inline Offset start(const Steps& steps, Offset row, Offset length) {
    return row / length * steps.axis[0] + row % length * steps.axis[1];
}

// What lies in one step in a tensor of the caller and in the layout: `count` entries from `there` and from `here` on.
struct Run {
    Offset there, here, count;
};

// Where entries of an image lie.
struct Layout {
    Offset rows[3], part, channel, taps, reach;
    std::vector<Offset> offset;     // of the entries of a patch
    std::vector<Offset> registers;  // where each begins in the line
    std::vector<Run> held;          // by the registers, of the output; `here` counts their lanes from the first on
    std::vector<Offset> first;      // of what is held, for each register, and the end

    explicit Layout(const Given& given) : part(1), taps(1), reach(0) {
        Offset parts = 1;
        for (int a = 0; a < 3; ++a) {
            rows[a] = up(given.length[a] + 2 * given.padding[a], given.stride[a]) / given.stride[a];
            part *= rows[a];
            parts *= given.stride[a];
            taps *= given.kernel[a];
        }
        channel = up(part * parts + LANES, CACHE_LINE);
        if (channel / CACHE_LINE % 2 == 0) channel += CACHE_LINE;  // channels keep out of each other's way in a cache
        for (Offset i = 0; i < given.kernel[0]; ++i)
            for (Offset j = 0; j < given.kernel[1]; ++j)
                for (Offset k = 0; k < given.kernel[2]; ++k)
                    offset.push_back(entry(given, i * given.dilation[0], j * given.dilation[1], k * given.dilation[2]));
        reach = *std::max_element(offset.begin(), offset.end());
        cover(given);
    }

    // Write what the lanes of registers hold into a line; between positions it stays as it is.
    template <typename Number>
    void lay(const Number* from, Number* line, Offset r, Offset end) const {
        for (; r < end; ++r)
            for (Offset n = first[r]; n < first[r + 1]; ++n)
                std::copy_n(from + held[n].here, held[n].count, line + registers[r] + held[n].here - r * LANES);
    }

    // Return how many lanes the registers have.
    Offset lanes() const { return Offset(registers.size()) * LANES; }

    // Cover the positions by registers: the line as a whole, or each row of positions, whichever takes fewer.
    void cover(const Given& given) {
        const Offset* const n = given.positions;
        const Offset whole = up(place(n[0] - 1, n[1] - 1, n[2]), LANES) / LANES, row = up(n[2], LANES) / LANES;
        const bool by_row = n[0] * n[1] * row < whole;
        for (Offset r = 0; !by_row && r < whole; ++r) registers.push_back(r * LANES);
        std::vector<Offset> line;
        for (Offset i = 0; i < n[0]; ++i)
            for (Offset j = 0; j < n[1]; ++j) {
                line.push_back(place(i, j, 0));
                for (Offset r = 0; by_row && r < row; ++r) registers.push_back(line.back() + r * LANES);
            }
        for (Offset r = 0; r < Offset(registers.size()); ++r) {
            first.push_back(held.size());
            const Offset begin = registers[r], end = begin + LANES;
            Offset i = std::upper_bound(line.begin(), line.end(), begin) - line.begin() - 1;
            for (; i < Offset(line.size()) && line[i] < end && (!by_row || i == r / row); ++i) {
                const Offset from = std::max(line[i], begin), count = std::min(line[i] + n[2], end) - from;
                const Offset there = start(given.z, i, n[1]) + (from - line[i]) * given.z.axis[2];
                if (count > 0) held.push_back({there, r * LANES + from - begin, count});
            }
        }
        first.push_back(held.size());
    }

    // Return the runs of an input.
    std::vector<Run> runs(const Given& given, const Steps& steps) const {
        std::vector<Run> found;
        const Offset *const length = given.length, *const padding = given.padding;
        for (Offset row = 0; row < length[0] * length[1]; ++row)
            for (Offset k = 0; k < std::min(given.stride[2], length[2]); ++k)
                found.push_back({start(steps, row, length[1]) + k * steps.axis[2],
                                 entry(given, row / length[1] + padding[0], row % length[1] + padding[1], k + padding[2]),
                                 (length[2] - k + given.stride[2] - 1) / given.stride[2]});
        return found;
    }

    Offset place(Offset i, Offset j, Offset k) const { return (i * rows[1] + j) * rows[2] + k; }

    // Return where an entry of the padded image lies.
    Offset entry(const Given& given, Offset i, Offset j, Offset k) const {
        const Offset* s = given.stride;
        const Offset remainder = ((i % s[0]) * s[1] + j % s[1]) * s[2] + k % s[2];
        return remainder * part + place(i / s[0], j / s[1], k / s[2]);
    }
};

// Memory that the caller gives, dealt out in order.
struct Room {
    Element* begin;
    Offset used;

    template <typename Number = Element>
    Number* take(Offset count) {
        Element* found = begin + used;
        used += up(count * sizeof(Number) / sizeof(Element), CACHE_LINE);
        return (Number*)found;
    }
};

// Let each thread work on its share of so many things.
template <typename Work>
inline void shared(Offset count, int threads, const Work& work) {
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
    for (int thread = 0; thread < threads; ++thread)
        work(thread, count * thread / threads, count * (thread + 1) / threads);
}

// Visit every run of every channel, neighbours one after the other.
template <typename Visit>
inline void each(const std::vector<Run>& runs, Offset channels, const Steps& steps, const Visit& visit) {
    if (steps.axis[2] <= steps.channel)
        for (Offset c = 0; c < channels; ++c)
            for (const Run& run : runs) visit(c, run);
    else
        for (const Run& run : runs)
            for (Offset c = 0; c < channels; ++c) visit(c, run);
}

// Copy an image into the layout, whose padding holds zeros.
inline void place_image(
    const Given& given, const Layout& layout, const std::vector<Run>& runs, const Element* x, Element* to) {
    const Offset step = given.x.axis[2] * given.stride[2];
    each(runs, given.inputs, given.x, [&](Offset c, const Run& run) {
        const Element* const from = x + c * given.x.channel + run.there;
        Element* const here = to + c * layout.channel + run.here;
        Offset i = 0;
        for (; step == 1 && i + LANES <= run.count; i += LANES) store(here + i, load(from + i));
        for (; i < run.count; ++i) here[i] = from[i * step];
    });
}

// Write W (outputs, inputs, taps) as tiles of the convolution read it.
inline void pack(const Given& given, const Layout& layout, const Element* W, Element* to, int threads) {
    const Offset entries = given.inputs * layout.taps;
    shared(up(given.outputs, DOWN) / DOWN, threads, [&](int, Offset block, Offset end) {
        for (; block < end; ++block)
            for (Offset i = 0; i < entries; ++i)
                for (Offset o = block * DOWN; o < (block + 1) * DOWN; ++o)
                    to[(block * entries + i) * DOWN + o % DOWN] = o < given.outputs ? W[o * entries + i] : 0;
    });
}

// Write W as tiles of the transposed convolution read it.
inline void pack_transposed(const Given& given, const Layout& layout, const Element* W, Element* to, int threads) {
    const Offset taps = layout.taps, blocks = up(given.inputs, DOWN) / DOWN;
    shared(blocks, threads, [&](int, Offset block, Offset end) {
        for (; block < end; ++block)
            for (Offset o = 0; o < given.outputs; ++o)
                for (Offset k = 0; k < taps; ++k)
                    for (Offset c = block * DOWN; c < (block + 1) * DOWN; ++c)
                        to[((k * blocks + block) * given.outputs + o) * DOWN + c % DOWN] =
                            c < given.inputs ? W[(o * given.inputs + c) * taps + k] : 0;
    });
}

// Sum each filter of W (outputs, entries), as the mean of a patch meets it.
inline void sum_filters(const Element* W, Offset outputs, Offset entries, Element* sums, int threads) {
    shared(outputs, threads, [&](int, Offset o, Offset end) {
        for (; o < end; ++o) {
            Wide sum = 0;
#pragma omp simd reduction(+ : sum)
            for (Offset i = 0; i < entries; ++i) sum += W[o * entries + i];
            sums[o] = Element(sum);
        }
    });
}

// Add up one number an entry over the patches of a register.
inline void over_patch(const Layout& layout, Offset r, const Wide* numbers, Wide (&sums)[LANES]) {
    for (const Offset k : layout.offset)
        for (int i = 0; i < LANES; ++i) sums[i] += numbers[layout.registers[r] + k + i];
}

// Add up one number a position of a line over the patches that an entry of the image is in.
inline void over_positions(const Layout& layout, Offset at, const Wide* line, Wide* to) {
    Wide sums[LANES] = {};
    for (const Offset k : layout.offset)
        for (int i = 0; i < LANES; ++i) sums[i] += line[layout.reach + at - k + i];
    std::copy_n(sums, LANES, to);
}

// A number of registers that the compiler knows.
template <int N>
struct Registers {
    static constexpr int count = N;
};

// Call `tile` for tiles of up to ACROSS registers: with the first of them, and how many as a constant.
template <typename Tile>
inline void tiles(Offset first, Offset end, const Tile& tile) {
    while (first < end) {
        const Offset taken = end - first == 4 ? 2 : std::min<Offset>(end - first, ACROSS);  // a tile of one is slow
        taken == 3 ? tile(first, Registers<3>()) : taken == 2 ? tile(first, Registers<2>()) : tile(first, Registers<1>());
        first += taken;
    }
}

// sums[r][n] += scales[r] * values[n]
template <int M, int N>
inline void multiply(const Element* scales, const Vector (&values)[N], Vector (&sums)[M][N]) {
#pragma GCC unroll 16
    for (int r = 0; r < M; ++r)
#pragma GCC unroll 16
        for (int n = 0; n < N; ++n) sums[r][n] += scales[r] * values[n];
}

template <int N>
inline void load_all(const Element* from, Vector (&values)[N]) {
#pragma GCC unroll 16
    for (int n = 0; n < N; ++n) values[n] = load(from + n * LANES);
}

template <int N>
inline void load_all(const Element* const (&from)[N], Offset at, Vector (&values)[N]) {
#pragma GCC unroll 16
    for (int n = 0; n < N; ++n) values[n] = load(from[n] + at);
}

template <int N>
inline void subtract(const Element* from, Vector (&values)[N]) {
#pragma GCC unroll 16
    for (int n = 0; n < N; ++n) values[n] -= load(from + n * LANES);
}

}  // namespace kernels
