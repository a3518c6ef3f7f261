// Stands in for CUDA's header of this name, so that a C++ compiler can build kernels.cu for the
// CPU: one block of one thread does all of a kernel's work.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#define __device__
#define __global__

namespace {

struct Dimensions {
    unsigned x, y;
};
const Dimensions threadIdx{0, 0}, blockDim{1, 1}, gridDim{1, 1};
Dimensions blockIdx{0, 0};

template <typename T>
T min(T a, T b) {
    return b < a ? b : a;
}

inline int __float_as_int(float value) {
    int bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

inline void atomicMax(int* to, int value) {
    if (*to < value) *to = value;
}

struct half {
    uint16_t bits;
};

inline float as_float(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

inline float __half2float(half value) {
    const uint32_t sign = (value.bits & 0x8000u) << 16, rest = value.bits & 0x7fffu;
    if (rest >= 0x7c00u) return as_float(sign | 0x7f800000u | (rest & 0x3ffu) << 13);
    // 2^112 puts the smaller exponent right, for subnormal numbers as well
    const float size = as_float(rest << 13) * as_float(0x77800000u);
    return as_float(sign | static_cast<uint32_t>(__float_as_int(size)));
}

// To the nearest, to even when two are as near.
inline half __float2half_rn(float value) {
    const uint32_t bits = static_cast<uint32_t>(__float_as_int(value));
    const uint16_t sign = bits >> 16 & 0x8000u;
    const uint32_t size = bits & 0x7fffffffu;
    if (size > 0x7f800000u) return {static_cast<uint16_t>(sign | 0x7e00u)};
    if (size >= 0x477ff000u) return {static_cast<uint16_t>(sign | 0x7c00u)};
    if (size < 0x38800000u) {  // subnormal: the sum's rounding is the one that is wanted
        const float sum = as_float(size) + 0.5f;
        return {static_cast<uint16_t>(sign | (static_cast<uint32_t>(__float_as_int(sum)) - 0x3f000000u))};
    }
    const uint32_t rounded = size + 0xfffu + (size >> 13 & 1u);
    return {static_cast<uint16_t>(sign | (rounded - 0x38000000u) >> 13)};
}

}  // namespace

extern "C" void set_block_y(unsigned y) { blockIdx.y = y; }
