// Samples one after the other: what the generated kernels of a layer of any kind share.
//
// Compile with -DELEMENT=float or double: the type of the input. Arithmetic is done in double whatever it is, so that
// squares of what a float holds stay in range. Samples are shared among threads in parts; what adds up over samples is
// added up in each part, and then part by part. The same input with the same number of threads gives the same bits.

#pragma once

#include <math.h>

#include <vector>

#define KERNEL extern "C" __attribute__((visibility("default"))) void

namespace kernels {

typedef long long Offset;
typedef ELEMENT Element;
typedef double Wide;

inline Wide infinity() { return Wide(INFINITY); }

inline Wide sign(Wide value) { return Wide((value > 0) - (value < 0)); }

inline Wide heaviside(Wide value) { return (sign(value) + 1) / 2; }

inline Wide fmax(Wide a, Wide b) { return a > b || a != a ? a : b; }

inline Wide fmin(Wide a, Wide b) { return a < b || a != a ? a : b; }

// Let `walk(first, end, part)` do the samples of each part, as many parts as threads.
template <typename Walk>
inline void in_parts(Offset samples, int threads, const Walk& walk) {
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static, 1)
    for (int part = 0; part < threads; ++part) {
        walk(samples * part / threads, samples * (part + 1) / threads, part);
    }
}

// Memory of its own for each part, zero at first; made before the threads start, where a lack of memory can be told.
class Parts {
  public:
    Parts(int count, Offset size) : count_(count), size_(size), numbers_(size_t(count) * size_t(size)) {}

    Wide* of(int part) { return numbers_.data() + part * size_; }

    // Add up a sum over samples, of which each part has its share.
    template <typename Number>
    void add_up(Number* total) const {
        for (Offset k = 0; k < size_; ++k) {
            Wide sum = 0;
            for (int part = 0; part < count_; ++part) sum += numbers_[part * size_ + k];
            total[k] = Number(sum);
        }
    }

  private:
    int count_;
    Offset size_;
    std::vector<Wide> numbers_;
};

}  // namespace kernels
