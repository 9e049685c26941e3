// Positions of images (batch, groups, channels, up to three axes of space) and sums over patches: shared by the generated
// kernels of convolutions.
//
// Arithmetic is in double, where squares and cubes of floats do not overflow. A position belongs to the
// threads of one threadIdx.y, at most 32 of them and a power of two, which share its channels, V at a time, and the
// entries of its patch. The order of sums depends only on lengths and the block. No atomics.

#define WIDE double
#include "rows.cuh"

typedef WideOf<Element>::Type Rounded;  // the type of a kept number per position

// One axis of space: the number of positions of a kernel and of a map along it, and the geometry of patches.
struct Axis {
    Offset here, there, kernel, stride, padding, dilation;
};

// 64-bit division is slow, and most numbers are small.
__device__ inline Offset quotient(Offset above, Offset below) {
    if (((above | below) >> 32) == 0) return Offset(unsigned(above) / unsigned(below));
    return above / below;
}

// Sum the values of the threads of a position; all of them get the result.
__device__ inline Wide lane_sum(Wide value) {
    for (int distance = int(blockDim.x) / 2; distance > 0; distance /= 2) {
        value += __shfl_xor_sync(ALL_LANES, value, distance);
    }
    return value;
}

struct Box {
    static constexpr bool TURNED = false;

    // The place of an entry of a position's patch, or -1 if it is outside.
    __device__ static Offset meets(const Axis& axis, Offset position, Offset entry) {
        const Offset place = position * axis.stride + entry * axis.dilation - axis.padding;
        return place >= 0 && place < axis.there ? place : -1;
    }
};

struct Spread {
    static constexpr bool TURNED = true;

    // The position whose patch has the place as that entry, or -1 if there is none.
    __device__ static Offset meets(const Axis& axis, Offset place, Offset entry) {
        const Offset reach = place + axis.padding - entry * axis.dilation;
        if (reach < 0) return -1;
        const Offset position = axis.stride == 1 ? reach : quotient(reach, axis.stride);
        return position * axis.stride == reach && position < axis.there ? position : -1;
    }
};

// Sum a map with one number per position over the entries of a filter at the current place.
template <typename Way>
__device__ inline Wide over_patch(
    const Wide* map, Offset block, Offset place, const Axis& first, const Axis& second, const Axis& third) {
    const Offset line = quotient(place, third.here), across = place - line * third.here;
    const Offset sheet = quotient(line, second.here), down = line - sheet * second.here;
    Wide sum = 0;
    Offset i = 0, j = 0;
    for (Offset k = threadIdx.x;; k += blockDim.x) {
        for (; k >= third.kernel; k -= third.kernel) ++j;
        for (; j >= second.kernel; j -= second.kernel) ++i;
        if (i >= first.kernel) break;
        const Offset a = Way::meets(first, sheet, i), b = Way::meets(second, down, j), c = Way::meets(third, across, k);
        if (a >= 0 && b >= 0 && c >= 0) sum += map[((block * first.there + a) * second.there + b) * third.there + c];
    }
    return lane_sum(sum);
}

// A tensor and its strides along images, groups, channels and three axes of space. For W, the strides of images and groups
// are those of groups and outputs.
template <typename T>
struct Spaced {
    T* data;
    Offset image, group, channel, first, second, third;

    __device__ T* at(Offset i, Offset g, Offset c, Offset a, Offset b, Offset d) const {
        return data + i * image + g * group + c * channel + a * first + b * second + d * third;
    }
};

// Whether a position is far, judged by its scale as stored; at a scale of zero there is nothing to add up. At a far position
// the sums of products of the patch may have overflowed the type in which a library adds up.
__device__ inline bool below(Wide scale, Wide near) {
    return Rounded(scale) > 0 && Rounded(scale) < near;
}

// The unit in which the input's type can hold the values that a far position's scale multiplies.
constexpr Wide UNIT = 1 / 18446744073709551616.0;  // 2^-64

// A channel of a convolution at a place, computed by its definition; for a transposed convolution Way is `Spread`. The loops
// are not unrolled, so that the kernels, which seldom call this, need few additional registers.
template <typename Way>
__device__ inline Wide by_definition(
    const Spaced<const Element>& x, const Spaced<const Element>& W, Offset image, Offset group, Offset channel,
    Offset inner, Offset place, const Axis& first, const Axis& second, const Axis& third) {
    Wide sum = 0;
#pragma unroll 1
    for (Offset entry = first.kernel * second.kernel * third.kernel - 1; entry >= 0; --entry) {
        const Offset line = quotient(entry, third.kernel), k = entry - line * third.kernel;
        const Offset i = quotient(line, second.kernel), j = line - i * second.kernel;
        const Offset row = quotient(place, third.here), sheet = quotient(row, second.here);
        const Offset a = Way::meets(first, sheet, i), b = Way::meets(second, row - sheet * second.here, j);
        const Offset c = Way::meets(third, place - row * third.here, k);
        if (a < 0 || b < 0 || c < 0) continue;
        const Element* value = x.at(image, group, 0, a, b, c);
        const Element* weight = W.at(group, channel, 0, i, j, k);
#pragma unroll 1
        for (Offset n = 0; n < inner; ++n, value += x.channel, weight += W.channel) {
            sum += Wide(widen(*value)) * Wide(widen(*weight));
        }
    }
    return sum;
}

// V channels of a position, zero after the last; contiguous ones are moved 16 bytes at a time.
__device__ inline Chunk<Element> channels_at(const Element* position, Offset start, Offset channels, Offset apart) {
    const Element* place = position + start * apart;
    if (apart == 1 && whole_chunk(place, start, channels)) return *reinterpret_cast<const Chunk<Element>*>(place);
    Chunk<Element> chunk;
#pragma unroll
    for (int k = 0; k < V; ++k) chunk.entries[k] = start + k < channels ? place[k * apart] : Element();
    return chunk;
}

__device__ inline void put_channels(
    Element* position, Offset start, Offset channels, Offset apart, const Chunk<Element>& chunk) {
    Element* place = position + start * apart;
    if (apart == 1 && whole_chunk(place, start, channels)) {
        *reinterpret_cast<Chunk<Element>*>(place) = chunk;
        return;
    }
#pragma unroll
    for (int k = 0; k < V; ++k) {
        if (start + k < channels) place[k * apart] = chunk.entries[k];
    }
}

// Compute the gradient with respect to W again, because a library's may have overflowed at far positions: the sum over
// positions of f * g, the gradient with respect to the convolution, times an entry of the patch minus the patch's mean, if m
// is given. For a transposed convolution (Way is `Spread`), g is read at places in space and x at positions. The threads with
// the same threadIdx.y, one warp, share an entry of the gradient.
template <typename Way>
__device__ inline void weights_again(
    const Spaced<Element>& dW, const Spaced<const Element>& g, const Spaced<const Element>& x, const Rounded* f,
    const Rounded* m, Offset count, Offset groups, Offset outer, Offset inner, Offset images, const Axis& first,
    const Axis& second, const Axis& third) {
    const Offset places = first.here * second.here * third.here;
    for (Offset own = Offset(blockIdx.x) * blockDim.y + threadIdx.y; own < count; own += Offset(gridDim.x) * blockDim.y) {
        Offset rest = own;
        const Offset k = rest % third.kernel, j = (rest /= third.kernel) % second.kernel, i = (rest /= second.kernel) % first.kernel;
        const Offset c = (rest /= first.kernel) % inner, o = (rest /= inner) % outer, group = rest / outer;
        Wide sum = 0;
        for (Offset q = threadIdx.x; q < images * places; q += blockDim.x) {
            const Offset image = quotient(q, places), place = q - image * places, block = image * groups + group;
            const Offset line = quotient(place, third.here), across = place - line * third.here;
            const Offset sheet = quotient(line, second.here), down = line - sheet * second.here;
            const Offset a = Box::meets(first, sheet, i), b = Box::meets(second, down, j), d = Box::meets(third, across, k);
            const bool there = a >= 0 && b >= 0 && d >= 0;
            if (Way::TURNED) {
                if (!there) continue;
                const Wide scale = f[((block * first.there + a) * second.there + b) * third.there + d];
                sum += scale * widen(*g.at(image, group, c, a, b, d)) * widen(*x.at(image, group, o, sheet, down, across));
            } else {
                const Wide entry = there ? Wide(widen(*x.at(image, group, c, a, b, d))) : Wide(0);
                const Wide gradient = f[block * places + place] * Wide(widen(*g.at(image, group, o, sheet, down, across)));
                sum += gradient * (m == nullptr ? entry : entry - m[block * places + place]);
            }
        }
        sum = lane_sum(sum);
        if (threadIdx.x == 0) *dW.at(group, o, c, i, j, k) = narrow<Element>(sum);
    }
}
