// Rows in registers: shared by the generated kernels.
//
// Compile with -DELEMENT=float, double, Half or Bfloat: the type of the input. Arithmetic is done in `Wide`.
//
// A row belongs to the threads of one threadIdx.y: up to a warp (several rows per block) or a whole block. They step
// along it by V entries each, 16 bytes of the input's type, and sum in an order that depends only on the
// length and the block, so that equal inputs give equal bits. No atomics.

typedef long long Offset;

struct Half {
    unsigned short bits;
};

struct Bfloat {
    unsigned short bits;
};

template <typename T>
struct WideOf {
    typedef float Type;
};

template <>
struct WideOf<double> {
    typedef double Type;
};

typedef ELEMENT Element;
#ifdef WIDE  // a kernel may require a wider type
typedef WIDE Wide;
#else
typedef WideOf<Element>::Type Wide;
#endif

constexpr int V = 16 / sizeof(Element);
constexpr unsigned ALL_LANES = 0xffffffffu;
constexpr int LANES = 32;

#ifndef HALF_CONVERSIONS  // the host's compiler has its own
__device__ inline float half_to_float(unsigned short bits) {
    float wide;
    asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(bits));
    return wide;
}

__device__ inline unsigned short float_to_half(float wide) {
    unsigned short bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(wide));
    return bits;
}
#endif

__device__ inline float widen(Half value) { return half_to_float(value.bits); }

__device__ inline float widen(float value) { return value; }

__device__ inline double widen(double value) { return value; }

__device__ inline float widen(Bfloat value) { return __uint_as_float(unsigned(value.bits) << 16); }

// To nearest, ties to even; a NaN stays one.
__device__ inline Bfloat to_bfloat(float wide) {
    const unsigned bits = __float_as_uint(wide);
    const unsigned rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
    return Bfloat{(unsigned short)((wide == wide ? rounded : bits | 0x400000u) >> 16)};
}

template <typename T>
__device__ inline T narrow(Wide wide) {
    return T(wide);
}

template <>
__device__ inline Half narrow<Half>(Wide wide) {
    return Half{float_to_half(float(wide))};
}

template <>
__device__ inline Bfloat narrow<Bfloat>(Wide wide) {
    return to_bfloat(float(wide));
}

__device__ inline Wide infinity() { return Wide(__int_as_float(0x7f800000)); }

__device__ inline Wide sign(Wide value) { return Wide((value > 0) - (value < 0)); }

__device__ inline Wide heaviside(Wide value) { return (sign(value) + 1) / 2; }

// V consecutive entries, moved 16 bytes at a time where the row allows it.
template <typename T>
struct alignas(16) Chunk {
    T entries[V];
};

template <typename T>
__device__ inline bool whole_chunk(const T* place, Offset start, Offset length) {
    return start + V <= length && (unsigned long long)(place) % 16 == 0;
}

// Entries after the end of the row are zero.
template <typename T>
__device__ inline void load(const T* row, Offset start, Offset length, Wide (&entries)[V]) {
    const T* place = row + start;
    if (whole_chunk(place, start, length)) {
        const Chunk<T> chunk = *reinterpret_cast<const Chunk<T>*>(place);
#pragma unroll
        for (int k = 0; k < V; ++k) entries[k] = widen(chunk.entries[k]);
    } else {
#pragma unroll
        for (int k = 0; k < V; ++k) entries[k] = start + k < length ? Wide(widen(place[k])) : Wide(0);
    }
}

template <typename T>
__device__ inline void store(T* row, Offset start, Offset length, const Wide (&entries)[V]) {
    T* place = row + start;
    if (whole_chunk(place, start, length)) {
        Chunk<T> chunk;
#pragma unroll
        for (int k = 0; k < V; ++k) chunk.entries[k] = narrow<T>(entries[k]);
        *reinterpret_cast<Chunk<T>*>(place) = chunk;
    } else {
#pragma unroll
        for (int k = 0; k < V; ++k) {
            if (start + k < length) place[k] = narrow<T>(entries[k]);
        }
    }
}

struct Sum {
    __device__ static Wide join(Wide a, Wide b) { return a + b; }
};

struct Largest {
    __device__ static Wide join(Wide a, Wide b) { return fmax(a, b); }
};

// Join the values of the threads of a row; all of them get the result.
template <typename Operation>
__device__ inline Wide over_row(Wide value) {
    const int lanes = blockDim.x < LANES ? blockDim.x : LANES;
    for (int distance = lanes / 2; distance > 0; distance /= 2) {
        value = Operation::join(value, __shfl_xor_sync(ALL_LANES, value, distance));
    }
    if (blockDim.x <= LANES) return value;
    __shared__ Wide warps[LANES];
    if (threadIdx.x % LANES == 0) warps[threadIdx.x / LANES] = value;
    __syncthreads();
    value = warps[0];
    for (int warp = 1; warp < blockDim.x / LANES; ++warp) value = Operation::join(value, warps[warp]);
    __syncthreads();
    return value;
}

__device__ inline Wide row_sum(Wide value) { return over_row<Sum>(value); }

__device__ inline Wide row_largest(Wide value) { return over_row<Largest>(value); }

// Sum the values of the threads of a column of the block (LANES wide and LANES high at most), for threadIdx.y == 0.
__device__ inline Wide column_sum(Wide value) {
    __shared__ Wide lines[LANES][LANES];
    lines[threadIdx.y][threadIdx.x] = value;
    __syncthreads();
    if (threadIdx.y == 0) {
        for (int line = 1; line < blockDim.y; ++line) value += lines[line][threadIdx.x];
    }
    return value;
}

// A power of two near the largest absolute value of a row, to divide by without rounding: neither it nor its square is
// zero, and it is finite. A NaN or an infinity in the row still propagates to the quotients.
__device__ inline Wide magnitude(Wide largest) {
    constexpr int lowest = sizeof(Wide) == 8 ? -511 : -63;
    constexpr int highest = sizeof(Wide) == 8 ? 1022 : 126;
    const int exponent = ilogb(fmax(largest, ldexp(Wide(1), lowest)));
    return ldexp(Wide(1), exponent < highest ? exponent : highest);
}

// The unit of a far row: products with it may overflow, or its scale may underflow.
__device__ inline Wide far_unit() { return ldexp(Wide(1), sizeof(Wide) == 8 ? -511 : -63); }

// The unit of a row, a power of two.
__device__ inline Wide unit_of(Wide peak) { return peak * far_unit() > 1 ? far_unit() : Wide(1); }
