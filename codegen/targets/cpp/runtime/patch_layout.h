// The layout of an image in a kernel's memory, and the entries of each position's patch.
//
// An image is copied with its padding into rows of equal length; for a stride above one, entries with the same remainder
// are contiguous. The positions then form one line, and entry k of all patches is the line that
// begins at offset[k], at most at `reach`. Registers cover the line, or each row of positions; their contents
// between two rows are not used, and the gradient with respect to the output is zero there.
//
// A transposed convolution has its stride in the output. Position q uses entry k of the filter if the stride divides
// q + padding - dilation k, and the quotient is the image entry's index. So positions with the same remainder
// use the same entries of the filter, and are the positions of a convolution with stride one: a part of the positions.

#pragma once

#include <algorithm>
#include <vector>

#include "patches.h"

namespace kernels {

// Strides: of images, groups, channels, and along three axes of space.
struct Steps {
    Offset image, group, channel, axis[3];
};

// Integers from Python; `inputs` and `outputs` are the channels of one group. `room` is the amount of scratch
// memory that a kernel needs, which it returns if it gets none.
struct Given {
    Offset images, groups, inputs, outputs, length[3], positions[3], kernel[3], stride[3], padding[3], dilation[3];
    Steps x, z, dx;
    Offset room;
};

// Return the number of entries of a patch.
inline Wide entries_of(const Given& given) {
    return Wide(given.inputs * given.kernel[0] * given.kernel[1] * given.kernel[2]);
}

// A run with constant strides in the caller's tensor and in the layout: `count` entries from `there` and from `here`.
struct Run {
    Offset there, here, count;
    Offset position;  // in a contiguous output with one channel
};

// The positions of a part along one axis, `first` and every `step` from there, and the entries that they use.
struct Meeting {
    Offset count, first, step;
    std::vector<Offset> kernel, shift;  // entries of the filter, and of the image at the first position
};

// Positions that use the same entries of the filter.
struct Part {
    Offset before;                  // number of filter entries that the earlier parts use
    std::vector<Offset> taps;       // entries of the filter that it uses
    std::vector<Offset> offset;     // offsets of these entries in the line
    std::vector<Offset> across, down;  // the offsets as sums of two: along the last axis, and along the others
    std::vector<Offset> registers;  // the beginning of each in the line
    Offset lowest, extent;          // the largest of `down`, and the reach of registers plus it from the line's beginning
    std::vector<Run> held;          // runs of the output in the registers; `here` counts lanes from the first one
    std::vector<Offset> first;      // the first run of each register, and the end

    // Write the lanes of registers into a line; entries between positions do not change.
    template <typename Number>
    void lay(const Number* from, Number* line, Offset r, Offset end) const {
        for (; r < end; ++r)
            for (Offset n = first[r]; n < first[r + 1]; ++n)
                copy(from + held[n].here, held[n].count, line + registers[r] + held[n].here - r * LANES);
    }

    // Return whether the lanes of a register are exactly consecutive positions of an output.
    bool full(Offset r) const { return first[r + 1] == first[r] + 1 && held[first[r]].count == LANES; }
};

// The layout of an image, and the parts of the positions.
struct Layout {
    Offset stride[3], padding[3], rows[3], part, channel, reach;
    Offset taps, met;                     // number of filter entries, and of those that some position uses
    Offset step;                          // from a position to the next of its part
    Offset output_step, input_step, own;  // strides of W per output and per input; lanes of the longest part
    std::vector<Part> parts;

    Layout(const Given& given, bool transposed) : part(1), reach(0), taps(1), met(0), own(0) {
        std::vector<Meeting> axes[3];
        Offset parts_of_image = 1;
        for (int a = 0; a < 3; ++a) {
            stride[a] = transposed ? 1 : given.stride[a];
            axes[a] = transposed ? around(given, a) : std::vector<Meeting>{along(given, a)};
            part *= rows[a];
            parts_of_image *= stride[a];
            taps *= given.kernel[a];
        }
        step = transposed ? given.stride[2] : 1;
        output_step = transposed ? taps : given.inputs * taps;
        input_step = transposed ? given.outputs * taps : taps;
        channel = up(part * parts_of_image + LANES, CACHE_LINE);
        if (channel / CACHE_LINE % 2 == 0) channel += CACHE_LINE;  // so that channels do not evict each other from a cache
        for (const Meeting& i : axes[0])
            for (const Meeting& j : axes[1])
                for (const Meeting& k : axes[2]) add(given, i, j, k);
    }

    // Return the entries that positions use along an axis, and the placement of the image there.
    Meeting along(const Given& given, int a) {
        Meeting found = {given.positions[a], 0, 1, {}, {}};
        padding[a] = given.padding[a];
        rows[a] = up(given.length[a] + 2 * padding[a], stride[a]) / stride[a];
        for (Offset k = 0; k < given.kernel[a]; ++k) {
            found.kernel.push_back(k);
            found.shift.push_back(k * given.dilation[a]);
        }
        return found;
    }

    // Return the same for a transposed convolution, for each remainder of the positions.
    std::vector<Meeting> around(const Given& given, int a) {
        std::vector<Meeting> found;
        const Offset by = given.stride[a];
        padding[a] = 0, rows[a] = given.length[a];
        for (Offset r = 0; r < std::min(by, given.positions[a]); ++r) {
            Meeting one = {(given.positions[a] - r + by - 1) / by, r, by, {}, {}};
            for (Offset k = 0; k < given.kernel[a]; ++k) {
                const Offset distance = r + given.padding[a] - k * given.dilation[a];
                if (distance % by) continue;
                one.kernel.push_back(k);
                one.shift.push_back(distance / by);
                padding[a] = std::max(padding[a], -distance / by);
                rows[a] = std::max(rows[a], distance / by + one.count);
            }
            rows[a] = std::max(rows[a], one.count);
            found.push_back(one);
        }
        rows[a] += padding[a];
        for (Meeting& one : found)
            for (Offset& shift : one.shift) shift += padding[a];
        return found;
    }

    // Add the part with these positions along the axes.
    void add(const Given& given, const Meeting& i, const Meeting& j, const Meeting& k) {
        Part made;
        made.before = met;
        for (size_t a = 0; a < i.kernel.size(); ++a)
            for (size_t b = 0; b < j.kernel.size(); ++b)
                for (size_t c = 0; c < k.kernel.size(); ++c) {
                    made.taps.push_back((i.kernel[a] * given.kernel[1] + j.kernel[b]) * given.kernel[2] + k.kernel[c]);
                    made.offset.push_back(entry(i.shift[a], j.shift[b], k.shift[c]));
                    reach = std::max(reach, made.offset.back());
                }
        met += made.taps.size();
        for (size_t c = 0; c < k.kernel.size(); ++c) made.across.push_back(entry(0, 0, k.shift[c]));
        for (size_t n = 0; n < made.offset.size(); n += k.kernel.size()) made.down.push_back(made.offset[n] - made.across[0]);
        if (made.across.size() < 2 || made.down.size() < 2) made.across = {0}, made.down = made.offset;
        cover(given, made, i, j, k);
        own = std::max(own, Offset(made.registers.size()) * LANES);
        made.lowest = made.down.empty() ? 0 : *std::max_element(made.down.begin(), made.down.end());
        made.extent = made.registers.back() + LANES + made.lowest;
        parts.push_back(made);
    }

    // Return the number of lanes in the registers of the longest part.
    Offset lanes() const { return own; }

    // Cover the positions by registers: the line as a whole, or each row of positions, whichever takes fewer.
    void cover(const Given& given, Part& made, const Meeting& i, const Meeting& j, const Meeting& k) const {
        const Offset whole = up(place(i.count - 1, j.count - 1, k.count), LANES) / LANES, row = up(k.count, LANES) / LANES;
        const bool by_row = i.count * j.count * row < whole;
        for (Offset r = 0; !by_row && r < whole; ++r) made.registers.push_back(r * LANES);
        std::vector<Offset> line;
        for (Offset a = 0; a < i.count; ++a)
            for (Offset b = 0; b < j.count; ++b) {
                line.push_back(place(a, b, 0));
                for (Offset r = 0; by_row && r < row; ++r) made.registers.push_back(line.back() + r * LANES);
            }
        for (Offset r = 0; r < Offset(made.registers.size()); ++r) {
            made.first.push_back(made.held.size());
            const Offset begin = made.registers[r], end = begin + LANES;
            Offset n = std::upper_bound(line.begin(), line.end(), begin) - line.begin() - 1;
            for (; n < Offset(line.size()) && line[n] < end && (!by_row || n == r / row); ++n) {
                const Offset from = std::max(line[n], begin), count = std::min(line[n] + k.count, end) - from;
                if (count <= 0) continue;
                const Offset a = i.first + n / j.count * i.step, b = j.first + n % j.count * j.step;
                const Offset c = k.first + (from - line[n]) * k.step, *const z = given.z.axis;
                made.held.push_back({a * z[0] + b * z[1] + c * z[2], r * LANES + from - begin, count,
                                     (a * given.positions[1] + b) * given.positions[2] + c});
            }
        }
        made.first.push_back(made.held.size());
    }

    // Return the runs of an input.
    std::vector<Run> runs(const Given& given, const Steps& steps) const {
        std::vector<Run> found;
        const Offset* const length = given.length;
        for (Offset i = 0; i < length[0]; ++i)
            for (Offset j = 0; j < length[1]; ++j)
                for (Offset k = 0; k < std::min(stride[2], length[2]); ++k)
                    found.push_back({i * steps.axis[0] + j * steps.axis[1] + k * steps.axis[2],
                                     entry(i + padding[0], j + padding[1], k + padding[2]),
                                     (length[2] - k + stride[2] - 1) / stride[2], 0});
        return found;
    }

    Offset place(Offset i, Offset j, Offset k) const { return (i * rows[1] + j) * rows[2] + k; }

    // Return the offset of an entry of the padded image.
    Offset entry(Offset i, Offset j, Offset k) const {
        const Offset remainder = ((i % stride[0]) * stride[1] + j % stride[1]) * stride[2] + k % stride[2];
        return remainder * part + place(i / stride[0], j / stride[1], k / stride[2]);
    }
};

}  // namespace kernels
