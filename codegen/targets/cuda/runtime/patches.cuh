// Positions of images (batch, groups, channels, up to three axes of space) and sums over patches: what the generated
// kernels of convolutions share.
//
// Arithmetic is done in double: there squares and cubes of what float holds do not overflow. A position belongs to the
// threads of one threadIdx.y, at most 32 of them and a power of two, which share its channels, V at a time, and the
// entries of its patch. Sums are added up in an order that only depends on lengths and the block. No atomics.

#define WIDE double
#include "rows.cuh"

typedef WideOf<Element>::Type Rounded;  // of a number a position that is kept

// One axis of space: how many positions a kernel walks along it, how many a map has there, and how patches lie.
struct Axis {
    Offset here, there, kernel, stride, padding, dilation;
};

// A division of 64 bits takes long, and most numbers are short.
__device__ inline Offset quotient(Offset above, Offset below) {
    if (((above | below) >> 32) == 0) return Offset(unsigned(above) / unsigned(below));
    return above / below;
}

// Add up the values of the threads of a position; all of them get the result.
__device__ inline Wide lane_sum(Wide value) {
    for (int distance = int(blockDim.x) / 2; distance > 0; distance /= 2) {
        value += __shfl_xor_sync(ALL_LANES, value, distance);
    }
    return value;
}

struct Box {
    // The place that an entry of the patch of a position lies at, or -1 for none.
    __device__ static Offset meets(const Axis& axis, Offset position, Offset entry) {
        const Offset place = position * axis.stride + entry * axis.dilation - axis.padding;
        return place >= 0 && place < axis.there ? place : -1;
    }
};

struct Spread {
    // The position whose patch holds a place as that entry, or -1 for none.
    __device__ static Offset meets(const Axis& axis, Offset place, Offset entry) {
        const Offset reach = place + axis.padding - entry * axis.dilation;
        if (reach < 0) return -1;
        const Offset position = axis.stride == 1 ? reach : quotient(reach, axis.stride);
        return position * axis.stride == reach && position < axis.there ? position : -1;
    }
};

// Sum a map of one number a position over the entries of a kernel, as they meet the place at hand.
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

// V channels of a position, zero behind the last; those that lie side by side are moved 16 bytes at a time.
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
