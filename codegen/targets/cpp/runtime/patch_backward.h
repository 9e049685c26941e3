// The backward pass of a map of patches in one call, for the generated kernels for convolutions.
//
// `Map` is a map's arithmetic, entry by entry and position by position; this file has the sums around it. The
// gradient through a position's scale needs the sum over output channels of dh[o] h[o]. Since h is a convolution plus
// other terms (`beside`), this is the sum over the patch of x[c,k] (W^T dh)[c,k], plus dh[o] times those terms. The
// gradient with respect to the input needs W^T dh anyway, so no convolution is recomputed or kept.

#pragma once

#include <numeric>

#include "patch_sums.h"

namespace kernels {

// The backward pass: the wanted ones of the gradients with respect to the input, W and b.
template <typename Map>
class Backward {
  public:
    Backward(const Map& map, const Given& given, const Element* W, const Element* b, Element* room)
        : map_(map), given_(given), layout_(given, Map::transposed), runs_(layout_.runs(given, given.x)),
          results_(layout_.runs(given, given.dx)), W_(W), b_(b), room_{room, 0}, entries_(given.inputs * layout_.taps),
          positions_(given.positions[0] * given.positions[1] * given.positions[2]),
          blocks_(up(given.inputs, DOWN) / DOWN), one_channel_(given.inputs == 1 && given.outputs == 1),
          by_lanes_(2 * given.outputs <= LANES),
          width_(by_lanes_ ? given.outputs * LANES : up(given.outputs, LANES)),
          summed_(given.inputs * layout_.met + layout_.parts.size() * SLACK) {}

    // Process all images; without memory, return how much is needed.
    Offset operator()(
        const Element* g, const Element* x, const Element* f, Element* dx, Element* dW, Element* db, int threads) {
        packed_ = room_.take(blocks_ * DOWN * given_.outputs * layout_.met);
        filters_ = room_.take(Map::centred ? given_.outputs : 0);
        std::vector<Own> owned;
        for (int thread = 0; thread < threads; ++thread) owned.push_back(own());
        if (!room_.begin) return room_.used;
        for (Offset group = 0; group < given_.groups; ++group) {
            one_group(owned, g, x, f, dx, dW, db, threads);
            g += given_.z.group, x += given_.x.group, f += positions_, W_ += given_.outputs * entries_;
            if (b_) b_ += given_.outputs;
            if (dx) dx += given_.dx.group;
            if (dW) dW += given_.outputs * entries_;
            if (db) db += given_.outputs;
        }
        return 0;
    }

  private:
    // Entries summed at once if each sum is one register; also the padding, in entries, after each part's sums.
    static constexpr int SLACK = 2 * ENTRIES;

    // Additional data for centred patches: numbers per entry, per position, and per output.
    struct Means {
        Element *mean, *to_mean;
        Wide *entries, *means, *through, *spread, *to_filters;
    };

    struct Own {
        Element *x, *f, *dx, *along, *dh, *line, *turned, *dW;
        Wide *through, *back, *rows, *spread, *db;
        Means means;
    };

    // Process all images of a group.
    void one_group(
        const std::vector<Own>& owned, const Element* g, const Element* x, const Element* f, Element* dx, Element* dW,
        Element* db, int threads) {
        if (dx || one_channel_) pack_transposed(given_, layout_, W_, packed_, threads);
        if (Map::centred) sum_filters(W_, given_.outputs, entries_, filters_, threads);
        shared(given_.images, threads, [&](int thread, Offset image, Offset end) {
            const Own& own = owned[thread];
            clear(own);
            for (; image < end; ++image) {
                const Ahead ahead(given_, positions_, image + 1 == end);
                place_image(given_, layout_, runs_, x + image * given_.x.image, ahead, own.x);
                if constexpr (Map::centred) over_channels(own);
                if (dx && !one_channel_) std::fill_n(own.dx, channels() * layout_.channel, Element(0));
                for (const Part& part : layout_.parts)
                    one_part(own, part, ahead, g + image * given_.z.image, f + image * given_.groups * positions_, dx, dW);
                if (dx) input(own, dx + image * given_.dx.image);
            }
        });
        if (dW) add_weights(owned, dW, threads);
        if (db) add_biases(owned, db);
    }

    // Process the positions of a part.
    void one_part(
        const Own& own, const Part& part, const Ahead& ahead, const Element* g, const Element* f, bool dx, bool dW) {
        for (const Run& run : part.held) {
            __builtin_prefetch(f + run.position + ahead.f);
            if (layout_.step == 1)
                copy(f + run.position, run.count, own.f + run.here);
            else
                for (Offset i = 0; i < run.count; ++i) own.f[run.here + i] = f[run.position + i * layout_.step];
        }
        if constexpr (Map::centred) mean(own, part);
        if (layout_.parts.size() > 1) std::fill_n(own.line, layout_.reach + layout_.channel, Element(0));
        const Offset count = part.registers.size();
        for (Offset first = 0; first < count; first += TOGETHER) {
            const Offset last = std::min(first + TOGETHER, count);
            incoming(own, part, ahead, g, first, last);
            if (one_channel_) {
                alone(own, part, first, last);
                continue;
            }
            if (dx) transposed(own, part, first, last);
            if (dW) by_lanes_ || width_ > LANES ? weight<ENTRIES>(own, part, first, last) : weight<SLACK>(own, part, first, last);
        }
        if (dx && one_channel_) gathered(own, part);
        if (dx) scales(own, part);
    }

    Offset channels() const { return blocks_ * DOWN; }

    // Return the offset, in entries, of a part's sums for the gradient with respect to W.
    Offset sums(const Part& part) const { return given_.inputs * part.before + (&part - layout_.parts.data()) * SLACK; }

    Own own() {
        return {room_.take(channels() * layout_.channel),
                room_.take(layout_.lanes()),
                room_.take(channels() * layout_.channel),
                room_.take(layout_.lanes()),
                room_.take(given_.outputs * PANEL),
                room_.take(layout_.reach + layout_.channel),
                room_.take(by_lanes_ ? 0 : PANEL * width_),
                room_.take(summed_ * width_),
                room_.template take<Wide>(layout_.lanes()),
                room_.template take<Wide>(layout_.reach + layout_.channel + LANES),
                room_.template take<Wide>(layout_.reach + layout_.channel + LANES),
                room_.template take<Wide>(layout_.channel),
                room_.template take<Wide>(given_.outputs),
                Map::centred ? means() : Means()};
    }

    Means means() {
        return {room_.take(layout_.lanes()),
                room_.take(layout_.lanes()),
                room_.template take<Wide>(layout_.channel + LANES),
                room_.template take<Wide>(layout_.lanes()),
                room_.template take<Wide>(layout_.lanes()),
                room_.template take<Wide>(layout_.channel),
                room_.template take<Wide>(given_.outputs)};
    }

    void clear(const Own& own) {
        std::fill_n(own.x, channels() * layout_.channel, Element(0));
        std::fill_n(own.f, layout_.lanes(), Element(0));
        if (!by_lanes_) std::fill_n(own.turned, PANEL * width_, Element(0));
        std::fill_n(own.dW, summed_ * width_, Element(0));
        std::fill_n(own.line, layout_.reach + layout_.channel, Element(0));
        std::fill_n(own.back, layout_.reach + layout_.channel + LANES, Wide(0));
        std::fill_n(own.db, given_.outputs, Wide(0));
        if (Map::centred) std::fill_n(own.means.to_filters, given_.outputs, Wide(0));
    }

    // Sum entries over channels.
    void over_channels(const Own& own) {
        const Means& to = own.means;
        std::fill_n(to.entries, layout_.channel, Wide(0));
        for (Offset c = 0; c < given_.inputs; ++c) {
            const Element* const x = own.x + c * layout_.channel;
            for (Offset i = 0; i < layout_.channel; ++i) to.entries[i] = map_.add_entry(to.entries[i], x[i]);
        }
    }

    // Compute the mean of each patch.
    void mean(const Own& own, const Part& part) {
        const Means& to = own.means;
        const Wide* const entries = over_rows(part, to.entries, own.rows);
        for (Offset r = 0; r < Offset(part.registers.size()); ++r) {
            Wide sums[LANES];
            over_patch(part, r, entries, sums);
            for (int i = 0; i < LANES; ++i)
                to.mean[r * LANES + i] = Element(to.means[r * LANES + i] = map_.mean(sums[i]));
        }
    }

    // Fill a panel (outputs, registers) with the gradient dh, zero where there is no position.
    void incoming(
        const Own& own, const Part& part, const Ahead& ahead, const Element* g, Offset first, Offset end) {
        const Offset begin = first * LANES;
        for (Offset o = 0; o < given_.outputs; ++o) {
            Element sums[LANES] = {};
            for (Offset r = first; r < end; ++r)
                one_register(own, part, r, ahead, g + o * given_.z.channel, own.dh + o * PANEL + (r - first) * LANES, sums);
            own.db[o] += std::accumulate(sums, sums + LANES, Element(0));
        }
        Element* const along = own.along + begin;
        const Offset count = (end - first) * LANES;
        const Element* const means = own.means.mean + begin;
        std::fill_n(along, count, Element(0));
        if (Map::centred) std::fill_n(own.means.to_mean + begin, count, Element(0));
        for (Offset o = 0; o < given_.outputs; ++o) {
            const Element* const dh = own.dh + o * PANEL;
            const Element b = b_ ? b_[o] : 0, filter = Map::centred ? filters_[o] : 0;
            for (Offset i = 0; i < count; ++i) along[i] += map_.beside(dh[i], b);
            if constexpr (Map::centred) own.means.to_filters[o] += around(dh, filter, means, count, own.means.to_mean + begin);
            for (Offset i = 0; !by_lanes_ && i < count; ++i) own.turned[i * width_ + o] = dh[i];
        }
    }

    // Scale a register of the gradient with respect to the output, and add its part of the gradient with respect to b.
    void one_register(
        const Own& own, const Part& part, Offset r, const Ahead& ahead, const Element* g, Element* dh,
        Element (&sums)[LANES]) {
        const Offset step = given_.z.axis[2] * layout_.step;
        if (step == 1 && part.full(r)) {
            const Element* const from = g + part.held[part.first[r]].there;
            __builtin_prefetch(from + ahead.z);
            return some(own.f + r * LANES, from, 1, LANES, dh, sums);
        }
        std::fill_n(dh, LANES, Element(0));
        for (Offset n = part.first[r]; n < part.first[r + 1]; ++n) {
            const Run& run = part.held[n];
            some(own.f + run.here, g + run.there, step, run.count, dh + run.here - r * LANES, sums);
        }
    }

    // The same for some lanes.
    void some(const Element* f, const Element* g, Offset step, Offset count, Element* dh, Element (&sums)[LANES]) {
#pragma omp simd
        for (Offset i = 0; i < count; ++i) {
            dh[i] = map_.incoming(f[i], g[i * step]);
            sums[i] += map_.bias(dh[i], g[i * step]);
        }
    }

    // Add the part of dh in the gradient of the means; return its part in the gradient of a filter's sum.
    Element around(const Element* dh, Element filter, const Element* means, Offset count, Element* to_mean) {
        Element sum = 0;
#pragma omp simd reduction(+ : sum)
        for (Offset i = 0; i < count; ++i) {
            to_mean[i] += map_.to_mean(dh[i], filter);
            sum += map_.to_filters(dh[i], means[i]);
        }
        return sum;
    }

    // Of one input and one output: the products of a panel of dh with the entries of each patch, with W^T and without, and
    // its line of dh.
    void alone(const Own& own, const Part& part, Offset first, Offset end) {
        const Element* const w = packed_ + part.before * DOWN;
        Element* const dW = own.dW + sums(part) * LANES;
        tiles(first, end, [&](Offset at, auto registers) {
            Vector sums[1][registers.count] = {}, values[registers.count], dh[registers.count];
            const Element* x[registers.count];
            for (int n = 0; n < registers.count; ++n) x[n] = own.x + part.registers[at + n];
            load_all(own.dh + (at - first) * LANES, dh);
            for (Offset k = 0; k < Offset(part.taps.size()); ++k) {
                load_all(x, part.offset[k], values);
                Vector product = load(dW + k * LANES);
                for (int n = 0; n < registers.count; ++n) product += values[n] * dh[n];
                store(dW + k * LANES, product);
                if constexpr (Map::centred) subtract(own.means.mean + at * LANES, values);
                multiply(w + k * DOWN, values, sums);
            }
            for (int n = 0; n < registers.count; ++n) {
                Element* const to = own.along + (at + n) * LANES;
                store(to, load(to) + sums[0][n] * dh[n]);
            }
        });
        part.lay(own.dh - first * LANES, own.line + layout_.reach, first, end);
    }

    // Of one input and one output: the gradient with respect to each entry, from the positions whose patch it is in.
    void gathered(const Own& own, const Part& part) {
        const Element* const w = packed_ + part.before * DOWN;
        tiles(0, layout_.channel / LANES, [&](Offset at, auto registers) {
            Vector sums[1][registers.count] = {}, values[registers.count];
            Element* const to = own.dx + at * LANES;
            if (part.before) load_all(to, sums[0]);
            for (Offset k = 0; k < Offset(part.taps.size()); ++k) {
                load_all(own.line + layout_.reach + at * LANES - part.offset[k], values);
                multiply(w + k * DOWN, values, sums);
            }
            for (int n = 0; n < registers.count; ++n) store(to + n * LANES, sums[0][n]);
        });
    }

    // Add a panel's part of the gradient with respect to the input, and its products with the entries of each patch.
    void transposed(const Own& own, const Part& part, Offset first, Offset end) {
        for (Offset k = 0; k < Offset(part.taps.size()); ++k)
            for (Offset block = 0; block < blocks_; ++block) {
                const Offset channel = block * DOWN * layout_.channel + part.offset[k];
                const Element* const w = packed_ + ((part.before + k) * blocks_ + block) * given_.outputs * DOWN;
                tiles(first, end, [&](Offset at, auto registers) {
                    Offset here[registers.count];
                    for (int n = 0; n < registers.count; ++n) here[n] = channel + part.registers[at + n];
                    const Element* const dh = own.dh + (at - first) * LANES;
                    given_.inputs == 1 ? fold<1, registers.count>(w, dh, own, here, at * LANES)
                                       : fold<DOWN, registers.count>(w, dh, own, here, at * LANES);
                });
            }
    }

    // Products of W and one tile of a panel, for one entry of the patches of M channels.
    template <int M, int N>
    void fold(const Element* w, const Element* dh, const Own& own, const Offset (&here)[N], Offset lane) {
        Vector sums[M][N] = {}, values[N];
        for (Offset o = 0; o < given_.outputs; ++o, w += DOWN, dh += PANEL) {
            load_all(dh, values);
            multiply(w, values, sums);
        }
        load_all(own.along + lane, values);
#pragma GCC unroll 16
        for (int r = 0; r < M; ++r)
#pragma GCC unroll 16
            for (int n = 0; n < N; ++n) {
                const Offset at = here[n] + r * layout_.channel;
                Vector x = load(own.x + at);
                if constexpr (Map::centred) x -= load(own.means.mean + lane + n * LANES);
                values[n] += sums[r][n] * x;
                store(own.dx + at, load(own.dx + at) + sums[r][n]);
            }
        for (int n = 0; n < N; ++n) store(own.along + lane + n * LANES, values[n]);
    }

    // Add the products of a panel and the entries of its patches, M at once, to the gradient with respect to W.
    template <int M>
    void weight(const Own& own, const Part& part, Offset first, Offset end) {
        const Offset taps = part.taps.size(), entries = given_.inputs * taps;
        for (Offset i = 0; i < entries; i += M) {
            const Element* x[M];
            for (Offset j = 0; j < M; ++j) {
                const Offset entry = std::min(i + j, entries - 1);
                x[j] = own.x + entry / taps * layout_.channel + part.offset[entry % taps];
            }
            Element* const to = own.dW + (sums(part) + i) * width_;
            if (by_lanes_) {
                for (Offset o = 0; o < given_.outputs; ++o) lanes(part, x, own.dh + o * PANEL, first, end, to + o * LANES);
                continue;
            }
            Offset o = 0;
            for (; o + SPAN * LANES <= width_; o += SPAN * LANES) products<SPAN>(part, x, own.turned + o, first, end, to + o);
            for (; o + 2 * LANES <= width_; o += 2 * LANES) products<2>(part, x, own.turned + o, first, end, to + o);
            for (; o < width_; o += LANES) products<1>(part, x, own.turned + o, first, end, to + o);
        }
    }

    // to[r] += sum over the registers of x[r] dh, lane by lane, for so few outputs that lanes would be empty.
    template <int M>
    void lanes(
        const Part& part, const Element* const (&x)[M], const Element* dh, Offset first, Offset end, Element* to) {
        Vector sums[M];
#pragma GCC unroll 16
        for (int r = 0; r < M; ++r) sums[r] = load(to + r * width_);
        for (; first < end; ++first, dh += LANES) {
            const Vector value = load(dh);
#pragma GCC unroll 16
            for (int r = 0; r < M; ++r) sums[r] += load(x[r] + part.registers[first]) * value;
        }
#pragma GCC unroll 16
        for (int r = 0; r < M; ++r) store(to + r * width_, sums[r]);
    }

    // to[r] += sum over the lanes p of the registers of x[r][p] turned[p]
    template <int N, int M>
    void products(
        const Part& part, const Element* const (&x)[M], const Element* turned, Offset first, Offset end,
        Element* to) {
        Vector sums[M][N], values[N];
#pragma GCC unroll 16
        for (int r = 0; r < M; ++r) load_all(to + r * width_, sums[r]);
        for (; first < end; ++first) {
            const Element* line[M];
            for (int r = 0; r < M; ++r) line[r] = x[r] + part.registers[first];
            for (Offset p = 0; p < LANES; ++p, turned += width_) {
                load_all(turned, values);
#pragma GCC unroll 16
                for (int r = 0; r < M; ++r)
#pragma GCC unroll 16
                    for (int n = 0; n < N; ++n) sums[r][n] += line[r][p] * values[n];
            }
        }
#pragma GCC unroll 16
        for (int r = 0; r < M; ++r)
            for (int n = 0; n < N; ++n) store(to + r * width_ + n * LANES, sums[r][n]);
    }

    // Sum one number per position of a part over the patches that contain an entry of the image.
    void spread(const Own& own, const Part& part, const Wide* from, Wide* to) {
        if (layout_.parts.size() > 1) std::fill_n(own.back, layout_.reach + layout_.channel, Wide(0));
        part.lay(from, own.back + layout_.reach, 0, part.registers.size());
        const Wide* rows = own.back + layout_.reach;
        if (part.across.size() > 1) {
            for (Offset at = 0; at < layout_.channel + part.lowest; at += LANES)
                add_up(rows + at - part.lowest, part.across, -1, own.rows + at);
            rows = own.rows + part.lowest;
        }
        for (Offset at = 0; at < layout_.channel; at += LANES) {
            Wide sums[LANES];
            add_up(rows + at, part.down, -1, sums);
            for (int i = 0; part.before && i < LANES; ++i) sums[i] += to[at + i];
            std::copy_n(sums, LANES, to + at);
        }
    }

    // Compute the gradient through the scales of a part.
    void scales(const Own& own, const Part& part) {
        for (Offset r = 0; r < Offset(part.registers.size()); ++r) {
            Wide* const through = own.through + r * LANES;
            const Offset begin = r * LANES;
#pragma omp simd
            for (int i = 0; i < LANES; ++i) through[i] = map_.through(own.f[begin + i], own.along[begin + i]);
            if constexpr (Map::centred)
                for (Offset i = begin; i < begin + LANES; ++i)
                    own.means.through[i] = map_.through_mean(own.through[i], own.means.means[i], own.means.to_mean[i]);
        }
        spread(own, part, own.through, own.spread);
        if (Map::centred) spread(own, part, own.means.through, own.means.spread);
    }

    // Add the gradient through the scales, and write the result to the caller's layout.
    void input(const Own& own, Element* dx) {
        const Offset step = given_.dx.axis[2] * layout_.stride[2];
        each(results_, given_.inputs, given_.dx, [&](Offset c, const Run& run) {
            const Element* const x = own.x + c * layout_.channel + run.here;
            const Element* const folded = own.dx + c * layout_.channel + run.here;
            const Wide *const spread = own.spread + run.here, *const means = own.means.spread + run.here;
            Element* const to = dx + c * given_.dx.channel + run.there;
            if (step == 1)
                for (Offset i = 0; i < run.count; ++i)
                    to[i] = map_.input(x[i], folded[i], spread[i], Map::centred ? means[i] : 0);
            else
                for (Offset i = 0; i < run.count; ++i)
                    to[i * step] = map_.input(x[i], folded[i], spread[i], Map::centred ? means[i] : 0);
        });
    }

    // Add the threads' sums, transposed.
    void add_weights(const std::vector<Own>& owned, Element* dW, int threads) {
        if (layout_.met < layout_.taps) std::fill_n(dW, given_.outputs * entries_, Element(0));
        for (const Part& part : layout_.parts)
            shared(up(given_.outputs, LANES) / LANES, threads, [&](int, Offset block, Offset end) {
                for (Offset i = 0; i < given_.inputs * Offset(part.taps.size()); i += LANES)
                    for (Offset o = block * LANES; o < end * LANES; o += LANES) add_tile(owned, part, i, o, dW);
            });
    }

    // Add the sums of a tile of entries and outputs: read along the outputs, written along the entries.
    void add_tile(const std::vector<Own>& owned, const Part& part, Offset first, Offset o, Element* dW) {
        const Offset taps = part.taps.size(), lanes = by_lanes_ ? LANES : 1;
        const Offset entries = std::min<Offset>(LANES, given_.inputs * taps - first);
        const Offset outputs = std::min<Offset>(LANES, given_.outputs - o);
        Element tile[LANES][LANES] = {};
        for (const Own& own : owned)
            for (Offset i = 0; i < entries; ++i) {
                const Element* const from = own.dW + (sums(part) + first + i) * width_ + o * lanes;
                for (Offset r = 0; r < outputs; ++r)
                    for (Offset p = 0; p < lanes; ++p) tile[i][r] += from[r * lanes + p];
            }
        for (Offset r = 0; r < outputs; ++r)
            for (Offset i = 0; i < entries; ++i) {
                const Offset entry = first + i;
                dW[(o + r) * layout_.output_step + entry / taps * layout_.input_step + part.taps[entry % taps]] =
                    centred(tile[i][r], o + r, owned);
            }
    }

    // Return an entry of the gradient with respect to W from the products with uncentred patches.
    Element centred(Element products, Offset o, const std::vector<Own>& owned) {
        if constexpr (Map::centred) {
            Wide sum = 0;
            for (const Own& own : owned) sum += own.means.to_filters[o];
            return map_.weight(products, Element(sum));
        }
        return products;
    }

    void add_biases(const std::vector<Own>& owned, Element* db) {
        for (Offset o = 0; o < given_.outputs; ++o) {
            Wide sum = 0;
            for (const Own& own : owned) sum += own.db[o];
            db[o] = Element(sum);
        }
    }

    const Map& map_;
    const Given& given_;
    const Layout layout_;
    const std::vector<Run> runs_, results_;
    const Element *W_, *b_;
    Room room_;
    const Offset entries_, positions_, blocks_;
    const bool one_channel_, by_lanes_;
    const Offset width_, summed_;  // length of the sums of one entry, and number of entries with sums
    Element *packed_, *filters_;
};

}  // namespace kernels
