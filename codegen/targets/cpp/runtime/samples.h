// Loops over samples: shared by the generated kernels of layers of any form.
//
// Compile with -DELEMENT=float or double: the type of the input. Arithmetic is in double for both, so that squares of
// floats stay in range. Each thread processes a part of the samples; sums over samples are computed in each part, then
// over the parts. Equal inputs with the same number of threads give equal bits.

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

// Let `walk(first, end, part)` process the samples of each part; there is one part per thread.
template <typename Walk>
inline void in_parts(Offset samples, int threads, const Walk& walk) {
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static, 1)
    for (int part = 0; part < threads; ++part) {
        walk(samples * part / threads, samples * (part + 1) / threads, part);
    }
}

// Zeroed memory for each part, allocated before the threads start, where running out of memory can be reported.
class Parts {
  public:
    Parts(int count, Offset size) : count_(count), size_(size), numbers_(size_t(count) * size_t(size)) {}

    Wide* of(int part) { return numbers_.data() + part * size_; }

    // Add the parts' shares of a sum over samples.
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
