// The part of CUDA that the generated kernels use, emulated on the CPU: each thread of a block is a fiber; blocks run in
// turn.
//
// A thread runs until it waits for others (__syncthreads, __shfl_xor_sync) or ends; then the next one runs, in an order
// that the caller chooses. A kernel whose result depends on that order lacks a barrier. A deadlocked block is reported.

#pragma once

#include <math.h>
#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <utility>
#include <vector>

#define __device__
#define __global__
#define __shared__ static
#define HALF_CONVERSIONS

struct Place {
    unsigned x, y, z;
};

static Place threadIdx, blockIdx, blockDim, gridDim;

struct Barrier {
    unsigned size = 0, arrived = 0;
    unsigned long generation = 0;
};

// A fiber starts by setcontext and resumes by _longjmp, which does not query the signal mask from the system.
struct Fiber {
    ucontext_t context;
    jmp_buf place;
    bool begun = false;
    std::vector<char> stack = std::vector<char>(1 << 16);
    unsigned number = 0;
    bool ended = false;
};

static jmp_buf scheduler;
static std::vector<Fiber> fibers;
static std::vector<Barrier> warps;
static Barrier block;
static Fiber* running;
static unsigned long progress;
static double exchanged[1024];

// Yields to the scheduler; returns when the scheduler resumes this fiber.
__attribute__((noinline)) static void leave() {
    if (!_setjmp(running->place)) _longjmp(scheduler, 1);
}

// Resumes a fiber until it yields or ends.
__attribute__((noinline)) static void enter(Fiber& fiber) {
    if (_setjmp(scheduler)) return;
    if (fiber.begun) _longjmp(fiber.place, 1);
    fiber.begun = true;
    setcontext(&fiber.context);
}

static void wait_at(Barrier& barrier) {
    const unsigned long mine = barrier.generation;
    if (++barrier.arrived == barrier.size) {
        barrier.arrived = 0;
        ++barrier.generation;
        ++progress;
    }
    while (barrier.generation == mine) leave();
}

static void __syncthreads() { wait_at(block); }

template <typename T>
static T __shfl_xor_sync(unsigned, T value, int distance) {
    Barrier& warp = warps[running->number / 32];
    exchanged[running->number] = value;
    wait_at(warp);
    const T other = T(exchanged[running->number ^ unsigned(distance)]);
    wait_at(warp);
    return other;
}

template <typename To, typename From>
static To same_bits(From value) {
    To result;
    static_assert(sizeof(To) == sizeof(From));
    std::memcpy(&result, &value, sizeof result);
    return result;
}

static inline float __uint_as_float(unsigned bits) { return same_bits<float>(bits); }
static inline float __int_as_float(int bits) { return same_bits<float>(bits); }
static inline unsigned __float_as_uint(float value) { return same_bits<unsigned>(value); }
static inline float half_to_float(unsigned short bits) { return same_bits<_Float16>(bits); }
static inline unsigned short float_to_half(float value) { return same_bits<unsigned short>(_Float16(value)); }

static void (*body)(void*);
static void* body_arguments;

static void fiber_main() {
    body(body_arguments);
    running->ended = true;
    ++progress;
    leave();
}

static void start(Fiber& fiber, unsigned number) {
    fiber.number = number;
    fiber.begun = fiber.ended = false;
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.data();
    fiber.context.uc_stack.ss_size = fiber.stack.size();
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, fiber_main, 0);
}

// Runs the threads of one block; returns whether all of them ended.
static bool run_block(unsigned count, unsigned order) {
    if (fibers.size() < count) fibers.resize(count);
    warps.assign((count + 31) / 32, Barrier{32});
    block = Barrier{count};
    std::vector<unsigned> turns(count);
    for (unsigned k = 0; k < count; ++k) {
        start(fibers[k], k);
        turns[k] = k;
    }
    std::mt19937 random(order);
    for (unsigned alive = count; alive > 0;) {
        if (order) std::shuffle(turns.begin(), turns.end(), random);
        const unsigned long before = progress;
        for (unsigned k : turns) {
            if (fibers[k].ended) continue;
            running = &fibers[k];
            threadIdx = Place{k % blockDim.x, k / blockDim.x, 0};
            enter(*running);
            alive -= fibers[k].ended;
        }
        if (progress == before) return false;
    }
    return true;
}

template <typename... Parameters>
struct Call {
    void (*kernel)(Parameters...);
    void** values;

    template <std::size_t... I>
    void with(std::index_sequence<I...>) const {
        kernel(*static_cast<std::remove_const_t<Parameters>*>(values[I])...);
    }

    static void run(void* self) {
        static_cast<Call*>(self)->with(std::index_sequence_for<Parameters...>{});
    }
};

// Runs a kernel over a grid; `values` are addresses of its arguments, as for cudaLaunchKernel. 0 if every block ended.
template <typename... Parameters>
static int launch(void (*kernel)(Parameters...), const unsigned* shape, unsigned order, void** values) {
    Call<Parameters...> call{kernel, values};
    gridDim = Place{shape[0], shape[1], 1};
    blockDim = Place{shape[2], shape[3], 1};
    body = &Call<Parameters...>::run;
    body_arguments = &call;
    for (blockIdx.y = 0; blockIdx.y < gridDim.y; ++blockIdx.y) {
        for (blockIdx.x = 0; blockIdx.x < gridDim.x; ++blockIdx.x) {
            if (!run_block(blockDim.x * blockDim.y, order)) return 1;
        }
    }
    return 0;
}
