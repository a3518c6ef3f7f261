// Every kernel of the CUDA engine besides cuDNN's convolutions. NHWC; values are half or float,
// moved in packs of 16 bytes. A view's channels are a multiple of a pack and lie side by side;
// its pixels may be further apart, so that a view can be a slice of a concatenation.
//
// build.rs compiles this file to PTX; kernels.rs launches what is named at its end.

#include <cuda_fp16.h>

namespace {

template <typename T>
struct alignas(16) Pack {
    static constexpr int LEN = 16 / sizeof(T);
    T v[LEN];
};

// Laid out as `Image` in kernels.rs.
template <typename T>
struct Image {
    T* data;       // first channel of pixel (0, 0) of the first image of the batch
    int pixel;     // values from one pixel to the next
    int channels;  // values of one pixel
    int height;
    int width;
};

// Laid out as `LogitArrays` in kernels.rs.
constexpr int MOST_ARRAYS = 8;
template <typename T>
struct LogitArrays {
    Image<T> from[MOST_ARRAYS];
    float* to[MOST_ARRAYS];
    int channels[MOST_ARRAYS];
};

__device__ inline float to_float(float value) { return value; }
__device__ inline float to_float(half value) { return __half2float(value); }

template <typename T>
__device__ inline T from_float(float value);
template <>
__device__ inline float from_float<float>(float value) { return value; }
template <>
__device__ inline half from_float<half>(float value) { return __float2half_rn(value); }

template <typename T>
__device__ inline Pack<T>& pack_at(const Image<T>& image, size_t pixel, unsigned pack) {
    T* value = image.data + pixel * image.pixel + pack * Pack<T>::LEN;
    return *reinterpret_cast<Pack<T>*>(value);
}

// Where one item of a kernel over all packs of an image lies.
struct Place {
    unsigned pack, x, y, index;
    size_t pixel;
};

template <typename T>
__device__ inline Place place_of(unsigned item, const Image<T>& image) {
    const unsigned packs = image.channels / Pack<T>::LEN;
    Place at;
    at.pack = item % packs;
    at.pixel = item / packs;
    at.x = at.pixel % image.width;
    const unsigned row = at.pixel / image.width;
    at.y = row % image.height;
    at.index = row / image.height;
    return at;
}

template <typename T>
__device__ inline size_t pixel_of(const Image<T>& image, unsigned index, unsigned y, unsigned x) {
    return (static_cast<size_t>(index) * image.height + y) * image.width + x;
}

#define EACH_ITEM(item, count)                                                  \
    for (unsigned item = blockIdx.x * blockDim.x + threadIdx.x; item < (count); \
         item += gridDim.x * blockDim.x)

// RGB bytes to normalised values; the channels after the third are zero. One pack a pixel.
template <typename T>
__device__ void normalise(Image<T> to, const unsigned char* from, unsigned count, const float* scale,
                        const float* shift) {
    EACH_ITEM(item, count) {
        Pack<T> out;
        for (int c = 0; c < Pack<T>::LEN; ++c) {
            const float value = c < 3 ? from[3 * static_cast<size_t>(item) + c] * scale[c] + shift[c] : 0.0f;
            out.v[c] = from_float<T>(value);
        }
        pack_at(to, item, 0) = out;
    }
}

// 3×3, stride 2, no padding; a window that hangs over the right or bottom edge is cut there.
template <typename T>
__device__ void max_pool(Image<T> to, Image<T> from, unsigned count) {
    EACH_ITEM(item, count) {
        const Place at = place_of(item, to);
        const unsigned bottom = min(2 * at.y + 3, static_cast<unsigned>(from.height));
        const unsigned right = min(2 * at.x + 3, static_cast<unsigned>(from.width));
        Pack<T> most = pack_at(from, pixel_of(from, at.index, 2 * at.y, 2 * at.x), at.pack);
        for (unsigned y = 2 * at.y; y < bottom; ++y) {
            for (unsigned x = 2 * at.x; x < right; ++x) {
                const Pack<T> next = pack_at(from, pixel_of(from, at.index, y, x), at.pack);
                for (int c = 0; c < Pack<T>::LEN; ++c) {
                    if (to_float(most.v[c]) < to_float(next.v[c])) most.v[c] = next.v[c];
                }
            }
        }
        pack_at(to, at.pixel, at.pack) = most;
    }
}

// Every pixel twice in both directions.
template <typename T>
__device__ void upsample(Image<T> to, Image<T> from, unsigned count) {
    EACH_ITEM(item, count) {
        const Place at = place_of(item, to);
        const size_t source = pixel_of(from, at.index, at.y / 2, at.x / 2);
        pack_at(to, at.pixel, at.pack) = pack_at(from, source, at.pack);
    }
}

template <typename T>
__device__ void add(Image<T> to, Image<T> left, Image<T> right, unsigned count) {
    EACH_ITEM(item, count) {
        const Place at = place_of(item, to);
        Pack<T> sum = pack_at(left, at.pixel, at.pack);
        const Pack<T> more = pack_at(right, at.pixel, at.pack);
        for (int c = 0; c < Pack<T>::LEN; ++c) {
            sum.v[c] = from_float<T>(to_float(sum.v[c]) + to_float(more.v[c]));
        }
        pack_at(to, at.pixel, at.pack) = sum;
    }
}

template <typename T>
__device__ void copy(Image<T> to, Image<T> from, unsigned count) {
    EACH_ITEM(item, count) {
        const Place at = place_of(item, to);
        pack_at(to, at.pixel, at.pack) = pack_at(from, at.pixel, at.pack);
    }
}

// For convolutions that cuDNN runs only without bias and activation. In place.
template <typename T>
__device__ void bias_relu(Image<T> to, const T* bias, int relu, unsigned count) {
    EACH_ITEM(item, count) {
        const Place at = place_of(item, to);
        Pack<T> out = pack_at(to, at.pixel, at.pack);
        for (int c = 0; c < Pack<T>::LEN; ++c) {
            const float value = to_float(out.v[c]) + to_float(bias[at.pack * Pack<T>::LEN + c]);
            out.v[c] = from_float<T>(relu && value < 0.0f ? 0.0f : value);
        }
        pack_at(to, at.pixel, at.pack) = out;
    }
}

// The plainest convolution: one thread a value. It decides whether cuDNN's answer is right, and
// runs a layer only where cuDNN refuses every other way. Weights are [out, kernel, kernel, in].
template <typename T>
__device__ void direct(Image<T> to, Image<T> from, const T* weight, const T* bias, int kernel,
                       int stride, int relu, unsigned count) {
    EACH_ITEM(item, count) {
        const unsigned o = item % to.channels;
        const size_t pixel = item / to.channels;
        const int x = pixel % to.width;
        const unsigned row = pixel / to.width;
        const int y = row % to.height;
        const unsigned at = row / to.height;
        float sum = to_float(bias[o]);
        for (int r = 0; r < kernel; ++r) {
            const int iy = y * stride + r - kernel / 2;
            if (iy < 0 || iy >= from.height) continue;
            for (int s = 0; s < kernel; ++s) {
                const int ix = x * stride + s - kernel / 2;
                if (ix < 0 || ix >= from.width) continue;
                const T* in = from.data + pixel_of(from, at, iy, ix) * from.pixel;
                const T* w = weight + ((static_cast<size_t>(o) * kernel + r) * kernel + s) * from.channels;
                for (int c = 0; c < from.channels; ++c) sum += to_float(in[c]) * to_float(w[c]);
            }
        }
        to.data[pixel * to.pixel + o] = from_float<T>(relu && sum < 0.0f ? 0.0f : sum);
    }
}

// All logit arrays, blockIdx.y each, without their padding channels, as float for the host.
template <typename T>
__device__ void logits(const LogitArrays<T>& arrays, int batch) {
    const Image<T> from = arrays.from[blockIdx.y];
    const unsigned channels = arrays.channels[blockIdx.y];
    float* to = arrays.to[blockIdx.y];
    EACH_ITEM(item, static_cast<unsigned>(batch) * from.height * from.width * channels) {
        const size_t pixel = item / channels;
        to[item] = to_float(from.data[pixel * from.pixel + item % channels]);
    }
}

// Pseudo-random values in -1..1, the same on every call.
template <typename T>
__device__ void fill(T* to, unsigned count) {
    EACH_ITEM(item, count) {
        unsigned hash = item * 2654435761u;  // Knuth's multiplicative hash, then a xorshift
        hash ^= hash >> 15;
        hash *= 2246822519u;
        hash ^= hash >> 13;
        to[item] = from_float<T>(static_cast<float>(hash >> 8) / 8388608.0f - 1.0f);
    }
}

// most[0] = largest |got - expected|, most[1] = largest |expected|, as the bits of floats, which
// order like integers when they are not negative. What is not a number counts as infinite.
template <typename T>
__device__ void compare(const T* got, const T* expected, int* most, unsigned count) {
    float difference = 0.0f, largest = 0.0f;
    EACH_ITEM(item, count) {
        const float right = to_float(expected[item]);
        float off = fabsf(to_float(got[item]) - right);
        if (!(off < INFINITY)) off = INFINITY;
        difference = fmaxf(difference, off);
        largest = fmaxf(largest, fabsf(right));
    }
    atomicMax(&most[0], __float_as_int(difference));
    atomicMax(&most[1], __float_as_int(largest));
}

}  // namespace

#define KERNELS(T, suffix)                                                                            \
    extern "C" __global__ void normalise_##suffix(Image<T> to, const unsigned char* from, unsigned n, \
                                                float s0, float s1, float s2, float t0, float t1,     \
                                                float t2) {                                           \
        const float scale[3] = {s0, s1, s2};                                                          \
        const float shift[3] = {t0, t1, t2};                                                          \
        normalise<T>(to, from, n, scale, shift);                                                      \
    }                                                                                                 \
    extern "C" __global__ void max_pool_##suffix(Image<T> to, Image<T> from, unsigned n) {            \
        max_pool<T>(to, from, n);                                                                     \
    }                                                                                                 \
    extern "C" __global__ void upsample_##suffix(Image<T> to, Image<T> from, unsigned n) {            \
        upsample<T>(to, from, n);                                                                     \
    }                                                                                                 \
    extern "C" __global__ void add_##suffix(Image<T> to, Image<T> a, Image<T> b, unsigned n) {        \
        add<T>(to, a, b, n);                                                                          \
    }                                                                                                 \
    extern "C" __global__ void copy_##suffix(Image<T> to, Image<T> from, unsigned n) {                \
        copy<T>(to, from, n);                                                                         \
    }                                                                                                 \
    extern "C" __global__ void bias_relu_##suffix(Image<T> to, const T* bias, int relu, unsigned n) { \
        bias_relu<T>(to, bias, relu, n);                                                              \
    }                                                                                                 \
    extern "C" __global__ void direct_##suffix(Image<T> to, Image<T> from, const T* weight,           \
                                               const T* bias, int kernel, int stride, int relu,       \
                                               unsigned n) {                                          \
        direct<T>(to, from, weight, bias, kernel, stride, relu, n);                                   \
    }                                                                                                 \
    extern "C" __global__ void logits_##suffix(LogitArrays<T> arrays, int batch) {                    \
        logits<T>(arrays, batch);                                                                     \
    }                                                                                                 \
    extern "C" __global__ void fill_##suffix(T* to, unsigned n) { fill<T>(to, n); }                   \
    extern "C" __global__ void compare_##suffix(const T* got, const T* expected, int* most,           \
                                                unsigned n) {                                         \
        compare<T>(got, expected, most, n);                                                           \
    }

KERNELS(half, f16)
KERNELS(float, f32)
