// Memory, tiles and sums of the passes of a convolution.

#pragma once

#include "patch_layout.h"

namespace kernels {

// Memory from the caller, allocated in order.
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

// Let each thread process its share of `count` items.
template <typename Work>
inline void shared(Offset count, int threads, const Work& work) {
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
    for (int thread = 0; thread < threads; ++thread)
        work(thread, count * thread / threads, count * (thread + 1) / threads);
}

// Visit every run of every channel, in memory order.
template <typename Visit>
inline void each(const std::vector<Run>& runs, Offset channels, const Steps& steps, const Visit& visit) {
    if (steps.axis[2] <= steps.channel)
        for (Offset c = 0; c < channels; ++c)
            for (const Run& run : runs) visit(c, run);
    else
        for (const Run& run : runs)
            for (Offset c = 0; c < channels; ++c) visit(c, run);
}

// The distance to the next image in the input, the output and the scale; zeros for the last image. It is prefetched
// meanwhile, since the images of a group are too far apart for the processor's own prefetching.
struct Ahead {
    Offset x, z, f;

    Ahead(const Given& given, Offset positions, bool last)
        : x(last ? 0 : given.x.image), z(last ? 0 : given.z.image), f(last ? 0 : given.groups * positions) {}
};

// Copy an image into the layout, whose padding holds zeros.
inline void place_image(
    const Given& given, const Layout& layout, const std::vector<Run>& runs, const Element* x, const Ahead& ahead,
    Element* to) {
    const Offset step = given.x.axis[2] * layout.stride[2];
    each(runs, given.inputs, given.x, [&](Offset c, const Run& run) {
        const Element* const from = x + c * given.x.channel + run.there;
        Element* const here = to + c * layout.channel + run.here;
        Offset i = 0;
        for (; step == 1 && i + LANES <= run.count; i += LANES) {
            store(here + i, load(from + i));
            __builtin_prefetch(from + i + ahead.x);
        }
        for (; i < run.count; ++i) here[i] = from[i * step];
    });
}

// Write W as tiles of the convolution read it, part after part.
inline void pack(const Given& given, const Layout& layout, const Element* W, Element* to, int threads) {
    const Offset blocks = up(given.outputs, DOWN) / DOWN;
    for (const Part& part : layout.parts) {
        const Offset taps = part.taps.size(), entries = given.inputs * taps;
        shared(blocks, threads, [&](int, Offset block, Offset end) {
            for (; block < end; ++block)
                for (Offset c = 0; c < given.inputs; ++c)
                    for (Offset k = 0; k < taps; ++k) {
                        const Element* const from = W + c * layout.input_step + part.taps[k];
                        Element* const tile = to + (block * entries + c * taps + k) * DOWN - block * DOWN;
                        for (Offset o = block * DOWN; o < (block + 1) * DOWN; ++o)
                            tile[o] = o < given.outputs ? from[o * layout.output_step] : 0;
                    }
        });
        to += blocks * DOWN * entries;
    }
}

// Write W as tiles of the transposed convolution read it, part after part.
inline void pack_transposed(const Given& given, const Layout& layout, const Element* W, Element* to, int threads) {
    const Offset blocks = up(given.inputs, DOWN) / DOWN;
    for (const Part& part : layout.parts) {
        const Offset taps = part.taps.size();
        shared(blocks, threads, [&](int, Offset begin, Offset end) {
            for (Offset first = 0; first < given.outputs; first += LANES)  // few rows of W at once, since they are far apart
                for (Offset block = begin; block < end; ++block)
                    for (Offset k = 0; k < taps; ++k)
                        for (Offset o = first; o < std::min(first + LANES, given.outputs); ++o) {
                            const Element* const from = W + o * layout.output_step + part.taps[k];
                            for (Offset c = block * DOWN; c < (block + 1) * DOWN; ++c)
                                to[((k * blocks + block) * given.outputs + o) * DOWN + c % DOWN] =
                                    c < given.inputs ? from[c * layout.input_step] : 0;
                        }
        });
        to += blocks * DOWN * given.outputs * taps;
    }
}

// Sum each filter of W (outputs, entries): the factor of a patch's mean.
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

// Write a register of sums of one number per entry, over entries at the given distances.
inline void add_up(const Wide* from, const std::vector<Offset>& steps, Offset sign, Wide* to) {
    WideVector sums[WIDES] = {};
    for (const Offset step : steps)
        for (int n = 0; n < WIDES; ++n) sums[n] += *(const LooseWide*)(from + sign * step + n * WIDE_LANES);
    for (int n = 0; n < WIDES; ++n) *(LooseWide*)(to + n * WIDE_LANES) = sums[n];
}

// Return the sums along the last axis of one number per entry; their sums over `down` are the sums over patches.
inline const Wide* over_rows(const Part& part, const Wide* numbers, Wide* room) {
    if (part.across.size() < 2) return numbers;
    for (Offset at = 0; at < part.extent; at += LANES) add_up(numbers + at, part.across, 1, room + at);
    return room;
}

// Sum the result of `over_rows` over the patches of a register.
inline void over_patch(const Part& part, Offset r, const Wide* numbers, Wide* sums) {
    add_up(numbers + part.registers[r], part.down, 1, sums);
}

// A number of registers that is a compile-time constant.
template <int N>
struct Registers {
    static constexpr int count = N;
};

// Call `tile` for tiles of up to ACROSS registers, with the first one and their number as a constant.
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
