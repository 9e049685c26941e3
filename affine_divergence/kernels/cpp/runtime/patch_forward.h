// The forward pass of a map of patches in one call, for the generated kernels for convolutions.
//
// `Map` is a map's arithmetic, entry by entry and position by position; this file has the sums around it.

#pragma once

#include "patch_sums.h"

namespace kernels {

// The forward pass: the output and the scale of each position.
template <typename Map>
class Forward {
  public:
    Forward(const Map& map, const Given& given, const Element* W, const Element* b, Element* room)
        : map_(map), given_(given), layout_(given, Map::transposed), runs_(layout_.runs(given, given.x)), W_(W), b_(b), room_{room, 0} {}

    // Process all images; without memory, return how much is needed, else whether some may be far.
    Offset operator()(const Element* x, Element* z, Element* f, int threads) {
        packed_ = room_.take(up(given_.outputs, DOWN) * given_.inputs * layout_.met);
        filters_ = room_.take(Map::centred ? given_.outputs : 0);
        std::vector<Own> owned;
        for (int thread = 0; thread < threads; ++thread)
            owned.push_back({room_.take(given_.inputs * layout_.channel), room_.take(layout_.lanes()),
                             room_.take(Map::centred ? layout_.lanes() : 0),
                             squares_room(), squares_room(), squares_room(Map::centred), squares_room(Map::centred)});
        if (!room_.begin) return room_.used;
        const Offset positions = given_.positions[0] * given_.positions[1] * given_.positions[2];
        for (Offset group = 0; group < given_.groups; ++group) {
            pack(given_, layout_, W_, packed_, threads);
            if (Map::centred) sum_filters(W_, given_.outputs, given_.inputs * layout_.taps, filters_, threads);
            shared(given_.images, threads, [&](int thread, Offset image, Offset end) {
                const Own& own = owned[thread];
                std::fill_n(own.x, given_.inputs * layout_.channel, Element(0));
                for (; image < end; ++image) {
                    const Ahead ahead(given_, positions, image + 1 == end);
                    place_image(given_, layout_, runs_, x + image * given_.x.image, ahead, own.x);
                    over_channels(own);
                    for (const Part& part : layout_.parts) {
                        scale(own, part, f + image * given_.groups * positions);
                        output(own, part, z + image * given_.z.image);
                    }
                }
            });
            x += given_.x.group, z += given_.z.group, f += positions;
            W_ += given_.outputs * given_.inputs * layout_.taps;
            if (b_) b_ += given_.outputs;
        }
        return far_;
    }

  private:
    struct Own {
        Element *x, *f, *mean;
        Wide *squares, *rows, *entries, *rows_of_entries;
    };

    // Return memory for one number per entry, padded so that reads of whole registers stay inside.
    Wide* squares_room(bool wanted = true) {
        return room_.template take<Wide>(wanted ? layout_.channel + LANES : 0);
    }

    // Sum squares over channels, and entries too if patches are centred.
    void over_channels(const Own& own) {
        if (Map::centred) std::fill_n(own.entries, layout_.channel, Wide(0));
        for (Offset c = 0; c < given_.inputs; ++c) {
            const Element* const x = own.x + c * layout_.channel;
            for (Offset i = 0; c == 0 && i < layout_.channel; ++i) own.squares[i] = map_.add(0, x[i]);
            for (Offset i = 0; c > 0 && i < layout_.channel; ++i) own.squares[i] = map_.add(own.squares[i], x[i]);
            if constexpr (Map::centred)
                for (Offset i = 0; i < layout_.channel; ++i) own.entries[i] = map_.add_entry(own.entries[i], x[i]);
        }
        for (Offset i = 0; i < layout_.channel; ++i) own.squares[i] = map_.total(own.squares[i]);
    }

    // Sum these sums over patches, and compute the scale of each patch.
    void scale(const Own& own, const Part& part, Element* f) {
        const Wide* const squares = over_rows(part, own.squares, own.rows);
        const Wide* const entries = Map::centred ? over_rows(part, own.entries, own.rows_of_entries) : nullptr;
        for (Offset r = 0; r < Offset(part.registers.size()); ++r) {
            Wide sums[LANES], means[LANES] = {};
            over_patch(part, r, squares, sums);
            if constexpr (Map::centred) {
                over_patch(part, r, entries, means);
                for (int i = 0; i < LANES; ++i) own.mean[r * LANES + i] = Element(means[i] = map_.mean(means[i]));
            }
            Element* const scales = own.f + r * LANES;
            int far = 0;
#pragma omp simd reduction(| : far)
            for (int i = 0; i < LANES; ++i) {
                far |= sums[i] > FAR;
                scales[i] = Element(map_.scale(sums[i], means[i]));
            }
            if (far) far_.store(1, std::memory_order_relaxed);
        }
        for (const Run& run : part.held)
            if (layout_.step == 1)
                copy(own.f + run.here, run.count, f + run.position);
            else
                for (Offset i = 0; i < run.count; ++i) f[run.position + i * layout_.step] = own.f[run.here + i];
    }

    // Compute the convolution in tiles: all tiles of a stripe for some channels at a time, whose part of W stays cached.
    // Kept out of the loop over images, where addresses of the innermost loop would be spilled.
    __attribute__((noinline)) void output(const Own& own, const Part& part, Element* z) {
        const Offset count = part.registers.size();
        for (Offset begin = 0; begin < count; begin += STRIPE)
            for (Offset o = 0; o < given_.outputs; o += DOWN)
                tiles(begin, std::min(begin + STRIPE, count), [&](Offset first, auto registers) {
                    given_.outputs == 1 ? tile<1, registers.count>(own, part, first, o, z)
                                        : tile<DOWN, registers.count>(own, part, first, o, z);
                });
    }

    // One tile of M channels, the last of which may be beyond the output's.
    template <int M, int N>
    void tile(const Own& own, const Part& part, Offset first, Offset o, Element* z) {
        const Element *x[N], *const scales = own.f + first * LANES, *const means = own.mean + first * LANES;
        for (int n = 0; n < N; ++n) x[n] = own.x + part.registers[first + n];
        Element sums[M][N * LANES];
        const Offset blocks = up(given_.outputs, DOWN) / DOWN, taps = part.taps.size();
        convolve(part, packed_ + (blocks * DOWN * part.before + o * taps) * given_.inputs, x, sums);
        for (Offset r = o; r < std::min(o + DOWN, given_.outputs); ++r) {
            Element* const row = sums[r - o];
            const Element b = b_ ? b_[r] : 0, filter = Map::centred ? filters_[r] : 0;
            for (int i = 0; i < N * LANES; ++i)
                row[i] = map_.output(scales[i], row[i], b, filter, Map::centred ? means[i] : 0);
            for (int n = 0; n < N; ++n) leave(part, first + n, row + n * LANES, z + r * given_.z.channel);
        }
    }

    // Write a register of a channel of the output.
    void leave(const Part& part, Offset r, const Element* from, Element* z) {
        const Offset step = given_.z.axis[2] * layout_.step;
        for (Offset n = part.first[r]; n < part.first[r + 1]; ++n) {
            const Run& run = part.held[n];
            if (step == 1 && run.count == LANES)
                store(z + run.there, load(from));
            else
                for (Offset i = 0; i < run.count; ++i) z[run.there + i * step] = from[run.here % LANES + i];
        }
    }

    template <int M, int N, int L>
    void convolve(const Part& part, const Element* w, const Element* const (&x)[N], Element (&to)[M][L]) {
        Vector sums[M][N] = {}, values[N];
        const Element* line[N];
        for (int n = 0; n < N; ++n) line[n] = x[n];
        for (Offset c = 0; c < given_.inputs; ++c) {
            for (const Offset k : part.offset) {
                load_all(line, k, values);
                multiply(w, values, sums);
                w += DOWN;
            }
            for (int n = 0; n < N; ++n) line[n] += layout_.channel;
        }
        for (int r = 0; r < M; ++r)
            for (int n = 0; n < N; ++n) store(to[r] + n * LANES, sums[r][n]);
    }

    const Map& map_;
    const Given& given_;
    const Layout layout_;
    const std::vector<Run> runs_;
    const Element *W_, *b_;
    Room room_;
    std::atomic<int> far_{0};
    Element *packed_, *filters_;
};

}  // namespace kernels
