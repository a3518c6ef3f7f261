// A GPU, its driver and cuDNN in software: as much of them as the CUDA engine calls, to rehearse
// the whole engine on a machine without a GPU. It is strict where a real GPU is:
//   - a call without a context bound to the thread fails;
//   - work is queued and runs only when it is waited for, so that what was not waited for is seen;
//   - memory is checked against what was allocated, and fresh memory holds no numbers;
//   - its driver is for CUDA 12.2 and refuses PTX of CUDA 13;
//   - allocating or waiting while a frame is recorded fails, and spoils the recording.
// Its cuDNN knows algorithm 1 fused and 0 plain; algorithm 6 ignores the distance between pixels,
// 7 wants too much scratch memory, and the others are refused. It computes with kernels.cu.
//
// SOFTWARE_GPU_REFUSE=slices refuses arrays with something between their pixels; =record refuses
// to record frames; =cudnn refuses every convolution.

#include "cuda_fp16.h"

#include "../../src/engine/cuda/kernels.cu"

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <vector>

namespace {

enum { OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, INVALID_CONTEXT = 201, UNSUPPORTED_PTX_VERSION = 222, ILLEGAL_ADDRESS = 700, CAPTURE_UNSUPPORTED = 900, CAPTURE_INVALIDATED = 901 };
enum { CUDNN_OK = 0, CUDNN_BAD_PARAM = 2000, CUDNN_NOT_SUPPORTED = 3000, CUDNN_EXECUTION_FAILED = 5000 };

using Work = std::function<int()>;
using Clock = std::chrono::steady_clock;

struct Event {
    Clock::time_point at;
};

std::recursive_mutex lock;
thread_local bool bound = false;
std::map<uint64_t, size_t> device;  // start, bytes
std::map<uint64_t, size_t> pinned;
std::vector<Work> queue;
bool recording = false, spoiled = false;
std::vector<Work> recorded;
int sticky = OK;  // a GPU that was sent astray stays so

bool refuses(const char* what) {
    const char* list = std::getenv("SOFTWARE_GPU_REFUSE");
    return list && std::string(list).find(what) != std::string::npos;
}

bool inside(const std::map<uint64_t, size_t>& memory, uint64_t start, size_t bytes) {
    auto next = memory.upper_bound(start);
    if (next == memory.begin()) return false;
    const auto& [from, len] = *--next;
    return start >= from && start + bytes <= from + len;
}

int submit(Work work) {
    if (!bound) return INVALID_CONTEXT;
    if (sticky != OK) return sticky;
    (recording ? recorded : queue).push_back(std::move(work));
    return OK;
}

int wait_for_all() {
    if (recording) {
        spoiled = true;
        return CAPTURE_UNSUPPORTED;
    }
    std::vector<Work> now;
    now.swap(queue);
    for (auto& work : now) {
        if (sticky == OK) sticky = work();
        if (sticky != OK) std::fprintf(stderr, "software GPU: error %d\n", sticky);
    }
    return sticky;
}

int allocate(std::map<uint64_t, size_t>& memory, uint64_t* to, size_t bytes) {
    if (!bound) return INVALID_CONTEXT;
    if (recording) {
        spoiled = true;
        return CAPTURE_UNSUPPORTED;
    }
    void* fresh = nullptr;
    if (bytes == 0 || posix_memalign(&fresh, 256, bytes)) return bytes == 0 ? INVALID_VALUE : OUT_OF_MEMORY;
    std::memset(fresh, 0xff, bytes);
    *to = reinterpret_cast<uint64_t>(fresh);
    memory[*to] = bytes;
    return OK;
}

int release(std::map<uint64_t, size_t>& memory, uint64_t start) {
    const int result = wait_for_all();
    if (!memory.erase(start)) return INVALID_VALUE;
    std::free(reinterpret_cast<void*>(start));
    return result;
}

int copy_bytes(uint64_t to, uint64_t from, size_t bytes) {
    std::memmove(reinterpret_cast<void*>(to), reinterpret_cast<void*>(from), bytes);
    return OK;
}

template <typename T>
bool inside_image(const Image<T>& image, size_t images) {
    const size_t pixels = images * image.height * image.width;
    const size_t values = pixels ? (pixels - 1) * image.pixel + image.channels : 0;
    const bool aligned = reinterpret_cast<uint64_t>(image.data) % 16 == 0;
    return aligned && values && inside(device, reinterpret_cast<uint64_t>(image.data), values * sizeof(T));
}

template <typename T>
size_t images_of(const Image<T>& image, size_t items, size_t items_a_pixel) {
    return items / items_a_pixel / (static_cast<size_t>(image.height) * image.width);
}

template <typename T>
T argument(void** arguments, int index) {
    T value;
    std::memcpy(&value, arguments[index], sizeof value);
    return value;
}

// A launch of one kernel: its arguments are read at once, as the driver does.
template <typename T>
Work launch(const std::string& name, void** a, unsigned blocks_y) {
    constexpr int LEN = Pack<T>::LEN;
    const auto packs = [](const Image<T>& image) { return static_cast<size_t>(image.channels / LEN); };
    if (name == "normalise") {
        const auto to = argument<Image<T>>(a, 0);
        const auto from = argument<const unsigned char*>(a, 1);
        const auto n = argument<unsigned>(a, 2);
        std::vector<float> f;
        for (int i = 3; i < 9; ++i) f.push_back(argument<float>(a, i));
        return [=] {
            if (!inside_image(to, images_of(to, n, packs(to)))) return int(ILLEGAL_ADDRESS);
            if (!inside(device, reinterpret_cast<uint64_t>(from), size_t(n) * 3)) return int(ILLEGAL_ADDRESS);
            normalise<T>(to, from, n, f.data(), f.data() + 3);
            return int(OK);
        };
    }
    if (name == "max_pool" || name == "upsample" || name == "copy") {
        const auto to = argument<Image<T>>(a, 0), from = argument<Image<T>>(a, 1);
        const auto n = argument<unsigned>(a, 2);
        return [=] {
            const size_t images = images_of(to, n, packs(to));
            if (!inside_image(to, images) || !inside_image(from, images)) return int(ILLEGAL_ADDRESS);
            if (name == "max_pool") max_pool<T>(to, from, n);
            if (name == "upsample") upsample<T>(to, from, n);
            if (name == "copy") copy<T>(to, from, n);
            return int(OK);
        };
    }
    if (name == "add") {
        const auto to = argument<Image<T>>(a, 0), left = argument<Image<T>>(a, 1), right = argument<Image<T>>(a, 2);
        const auto n = argument<unsigned>(a, 3);
        return [=] {
            const size_t images = images_of(to, n, packs(to));
            for (const auto& image : {to, left, right}) {
                if (!inside_image(image, images)) return int(ILLEGAL_ADDRESS);
            }
            add<T>(to, left, right, n);
            return int(OK);
        };
    }
    if (name == "bias_relu") {
        const auto to = argument<Image<T>>(a, 0);
        const auto bias = argument<const T*>(a, 1);
        const auto relu = argument<int>(a, 2);
        const auto n = argument<unsigned>(a, 3);
        return [=] {
            if (!inside_image(to, images_of(to, n, packs(to)))) return int(ILLEGAL_ADDRESS);
            if (!inside(device, reinterpret_cast<uint64_t>(bias), to.channels * sizeof(T))) return int(ILLEGAL_ADDRESS);
            bias_relu<T>(to, bias, relu, n);
            return int(OK);
        };
    }
    if (name == "direct") {
        const auto to = argument<Image<T>>(a, 0), from = argument<Image<T>>(a, 1);
        const auto weight = argument<const T*>(a, 2), bias = argument<const T*>(a, 3);
        const auto kernel = argument<int>(a, 4), stride = argument<int>(a, 5), relu = argument<int>(a, 6);
        const auto n = argument<unsigned>(a, 7);
        return [=] {
            const size_t images = images_of(to, n, to.channels);
            const size_t weights = size_t(to.channels) * kernel * kernel * from.channels;
            if (!inside_image(to, images) || !inside_image(from, images)) return int(ILLEGAL_ADDRESS);
            if (!inside(device, reinterpret_cast<uint64_t>(weight), weights * sizeof(T))) return int(ILLEGAL_ADDRESS);
            if (!inside(device, reinterpret_cast<uint64_t>(bias), to.channels * sizeof(T))) return int(ILLEGAL_ADDRESS);
            direct<T>(to, from, weight, bias, kernel, stride, relu, n);
            return int(OK);
        };
    }
    if (name == "logits") {
        const auto arrays = argument<LogitArrays<T>>(a, 0);
        const auto batch = argument<int>(a, 1);
        return [=] {
            for (unsigned y = 0; y < blocks_y; ++y) {
                const auto& from = arrays.from[y];
                const size_t bytes = size_t(batch) * from.height * from.width * arrays.channels[y] * sizeof(float);
                if (!inside_image(from, batch)) return int(ILLEGAL_ADDRESS);
                if (!inside(device, reinterpret_cast<uint64_t>(arrays.to[y]), bytes)) return int(ILLEGAL_ADDRESS);
                set_block_y(y);
                logits<T>(arrays, batch);
            }
            return int(OK);
        };
    }
    if (name == "fill") {
        const auto to = argument<T*>(a, 0);
        const auto n = argument<unsigned>(a, 1);
        return [=] {
            if (!inside(device, reinterpret_cast<uint64_t>(to), n * sizeof(T))) return int(ILLEGAL_ADDRESS);
            fill<T>(to, n);
            return int(OK);
        };
    }
    if (name == "compare") {
        const auto got = argument<const T*>(a, 0), expected = argument<const T*>(a, 1);
        const auto most = argument<int*>(a, 2);
        const auto n = argument<unsigned>(a, 3);
        return [=] {
            for (const auto* array : {got, expected}) {
                if (!inside(device, reinterpret_cast<uint64_t>(array), n * sizeof(T))) return int(ILLEGAL_ADDRESS);
            }
            if (!inside(device, reinterpret_cast<uint64_t>(most), 8)) return int(ILLEGAL_ADDRESS);
            compare<T>(got, expected, most, n);
            return int(OK);
        };
    }
    return nullptr;
}

struct Function {
    std::string name;
    bool half_precision;
};

struct Tensor {
    int type, n, c, h, w, n_stride, c_stride, h_stride, w_stride;
};
struct Filter {
    int type, format, k, c, h, w;
};
struct Form {
    int pad_h, pad_w, stride_h, stride_w, mode, compute, math;
};
struct Activation {
    int mode;
};

bool nhwc(const Tensor& t) {
    return t.c_stride == 1 && t.h_stride == t.w * t.w_stride && t.n_stride == t.h * t.h_stride && t.w_stride >= t.c;
}

// cuDNN's checks, and what of the algorithms exists here.
int runs(const Tensor& x, const Filter& w, const Form& form, const Tensor& y, int algorithm) {
    const int out_h = (x.h + 2 * form.pad_h - w.h) / form.stride_h + 1, out_w = (x.w + 2 * form.pad_w - w.w) / form.stride_w + 1;
    const bool fits = x.c == w.c && y.c == w.k && x.n == y.n && y.h == out_h && y.w == out_w && x.type == w.type && x.type == y.type;
    const bool form_ok = form.mode == 1 && form.compute == 0 && w.format == 1 && form.stride_h == form.stride_w && form.pad_h == w.h / 2;
    if (!fits || !form_ok || !nhwc(x) || !nhwc(y)) return CUDNN_BAD_PARAM;
    if (form.math != (x.type == 2 ? 1 : 3)) return CUDNN_BAD_PARAM;
    if (refuses("cudnn") || (algorithm != 0 && algorithm != 1 && algorithm < 6)) return CUDNN_NOT_SUPPORTED;
    if (refuses("slices") && (x.w_stride != x.c || y.w_stride != y.c)) return CUDNN_NOT_SUPPORTED;
    return CUDNN_OK;
}

size_t workspace_of(int algorithm) { return algorithm == 7 ? size_t(1) << 40 : algorithm == 1 ? 4096 : 0; }

template <typename T>
Work convolution(Tensor x, const void* from, Filter w, const void* weight, Form form, const void* bias, int relu, Tensor y, void* to, bool careless) {
    const auto image = [](const Tensor& t, const void* data) {
        return Image<T>{static_cast<T*>(const_cast<void*>(data)), t.w_stride, t.c, t.h, t.w};
    };
    const auto in = image(x, from);
    auto out = image(y, to);
    if (careless) out.pixel = out.channels;
    return [=]() -> int {
        const size_t weights = size_t(w.k) * w.h * w.w * w.c;
        if (!inside_image(in, x.n) || !inside_image(image(y, to), y.n)) return ILLEGAL_ADDRESS;
        if (!inside(device, reinterpret_cast<uint64_t>(weight), weights * sizeof(T))) return ILLEGAL_ADDRESS;
        // single precision and the output's channels innermost, or this would take minutes
        std::vector<float> turned(weights), sums(w.k), input(x.c);
        for (size_t o = 0, i = 0; o < size_t(w.k); ++o) {
            for (size_t tap = 0; tap < size_t(w.h) * w.w * w.c; ++tap, ++i) {
                turned[tap * w.k + o] = to_float(static_cast<const T*>(weight)[i]);
            }
        }
        for (int n = 0; n < y.n; ++n) {
            for (int oy = 0; oy < y.h; ++oy) {
                for (int ox = 0; ox < y.w; ++ox) {
                    for (int o = 0; o < w.k; ++o) sums[o] = bias ? to_float(static_cast<const T*>(bias)[o]) : 0.0f;
                    for (int r = 0; r < w.h; ++r) {
                        const int iy = oy * form.stride_h + r - form.pad_h;
                        if (iy < 0 || iy >= x.h) continue;
                        for (int s = 0; s < w.w; ++s) {
                            const int ix = ox * form.stride_w + s - form.pad_w;
                            if (ix < 0 || ix >= x.w) continue;
                            const T* pixel = in.data + pixel_of(in, n, iy, ix) * in.pixel;
                            for (int c = 0; c < x.c; ++c) {
                                const float value = to_float(pixel[c]);
                                const float* row = &turned[(size_t(r * w.w + s) * w.c + c) * w.k];
                                for (int o = 0; o < w.k; ++o) sums[o] += value * row[o];
                            }
                        }
                    }
                    T* target = out.data + pixel_of(out, n, oy, ox) * out.pixel;
                    for (int o = 0; o < w.k; ++o) target[o] = from_float<T>(relu && sums[o] < 0.0f ? 0.0f : sums[o]);
                }
            }
        }
        return OK;
    };
}

}  // namespace

#define LOCKED std::lock_guard<std::recursive_mutex> guard(lock)
#define API extern "C" int

API cuInit(unsigned) { return OK; }
API cuDriverGetVersion(int* version) { return *version = 12020, OK; }
API cuGetErrorString(int, const char** text) { return *text = "an error of the software GPU", OK; }
API cuDeviceGet(int* to, int ordinal) { return *to = 0, ordinal == 0 ? OK : 101; }
API cuDeviceGetName(char* to, int len, int) { return std::snprintf(to, len, "Software GPU"), OK; }
API cuDeviceGetAttribute(int* to, int attribute, int) {
    // 16 multiprocessors, compute capability 8.7, memory pools
    *to = attribute == 16 ? 2 : attribute == 75 ? 8 : attribute == 76 ? 7 : 0;
    return OK;
}
API cuDevicePrimaryCtxRetain(void** to, int) { return *to = reinterpret_cast<void*>(0x10), OK; }
API cuDevicePrimaryCtxRelease_v2(int) { return OK; }
API cuCtxGetCurrent(void** to) { return *to = bound ? reinterpret_cast<void*>(0x10) : nullptr, OK; }
API cuCtxSetCurrent(void* context) { return bound = context != nullptr, OK; }
API cuCtxSynchronize() { LOCKED; return wait_for_all(); }
API cuStreamCreate(void** to, unsigned) { return *to = reinterpret_cast<void*>(0x20), bound ? OK : INVALID_CONTEXT; }
API cuStreamSynchronize(void*) { LOCKED; return wait_for_all(); }
API cuStreamDestroy_v2(void*) { LOCKED; return wait_for_all(); }
API cuMemAlloc_v2(uint64_t* to, size_t bytes) { LOCKED; return allocate(device, to, bytes); }
API cuMemFree_v2(uint64_t start) { LOCKED; return release(device, start); }
API cuMemHostAlloc(void** to, size_t bytes, unsigned) { LOCKED; return allocate(pinned, reinterpret_cast<uint64_t*>(to), bytes); }
API cuMemFreeHost(void* start) { LOCKED; return release(pinned, reinterpret_cast<uint64_t>(start)); }

API cuMemsetD8Async(uint64_t to, unsigned char value, size_t bytes, void*) {
    LOCKED;
    return submit([=] {
        if (!inside(device, to, bytes)) return int(ILLEGAL_ADDRESS);
        std::memset(reinterpret_cast<void*>(to), value, bytes);
        return int(OK);
    });
}
API cuMemcpyHtoDAsync_v2(uint64_t to, const void* from, size_t bytes, void*) {
    LOCKED;
    if (!inside(device, to, bytes)) return INVALID_VALUE;
    const auto source = reinterpret_cast<uint64_t>(from);
    if (inside(pinned, source, bytes)) return submit([=] { return copy_bytes(to, source, bytes); });
    if (recording) return spoiled = true, CAPTURE_UNSUPPORTED;
    // memory that is not pinned is read before the call returns
    std::vector<char> staged(static_cast<const char*>(from), static_cast<const char*>(from) + bytes);
    return submit([=] { return copy_bytes(to, reinterpret_cast<uint64_t>(staged.data()), bytes); });
}
API cuMemcpyDtoHAsync_v2(void* to, uint64_t from, size_t bytes, void*) {
    LOCKED;
    const auto target = reinterpret_cast<uint64_t>(to);
    if (!inside(device, from, bytes) || !inside(pinned, target, bytes)) return INVALID_VALUE;
    return submit([=] { return copy_bytes(target, from, bytes); });
}
API cuMemcpyDtoH_v2(void* to, uint64_t from, size_t bytes) {
    LOCKED;
    if (!bound) return INVALID_CONTEXT;
    if (recording) return spoiled = true, CAPTURE_UNSUPPORTED;
    if (!inside(device, from, bytes)) return INVALID_VALUE;
    return copy_bytes(reinterpret_cast<uint64_t>(to), from, bytes);  // waits for no other stream
}
API cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, void*) {
    LOCKED;
    if (!inside(device, from, bytes) || !inside(device, to, bytes)) return INVALID_VALUE;
    return submit([=] { return copy_bytes(to, from, bytes); });
}

API cuModuleLoadData(void** to, const void* image) {
    const std::string text(static_cast<const char*>(image));
    if (text.find("\n.version 9.") != std::string::npos) return UNSUPPORTED_PTX_VERSION;
    return *to = reinterpret_cast<void*>(0x30), bound ? OK : INVALID_CONTEXT;
}
API cuModuleUnload(void*) { return OK; }
API cuModuleGetFunction(void** to, void*, const char* full) {
    const std::string name(full);
    const size_t cut = name.rfind('_');
    const std::string precision = name.substr(cut + 1);
    if (precision != "f16" && precision != "f32") return INVALID_VALUE;
    *to = new Function{name.substr(0, cut), precision == "f16"};  // modules live as long as the process
    return OK;
}
API cuLaunchKernel(void* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned, void*, void** arguments, void**) {
    LOCKED;
    const auto* kernel = static_cast<Function*>(function);
    if (!gx || !gy || gz != 1 || bx == 0 || bx > 1024 || by != 1 || bz != 1) return INVALID_VALUE;
    Work work = kernel->half_precision ? launch<half>(kernel->name, arguments, gy) : launch<float>(kernel->name, arguments, gy);
    return work ? submit(std::move(work)) : INVALID_VALUE;
}

API cuEventCreate(void** to, unsigned) { return *to = new Event{}, bound ? OK : INVALID_CONTEXT; }
API cuEventDestroy_v2(void* event) { return delete static_cast<Event*>(event), OK; }
API cuEventRecord(void* event, void*) {
    LOCKED;
    return submit([=] { return static_cast<Event*>(event)->at = Clock::now(), int(OK); });
}
API cuEventSynchronize(void*) { LOCKED; return wait_for_all(); }
API cuEventElapsedTime(float* to, void* start, void* end) {
    const auto time = static_cast<Event*>(end)->at - static_cast<Event*>(start)->at;
    return *to = std::chrono::duration<float, std::milli>(time).count(), OK;
}

API cuStreamBeginCapture_v2(void*, int) {
    LOCKED;
    if (!bound) return INVALID_CONTEXT;
    if (refuses("record")) return CAPTURE_UNSUPPORTED;
    recorded.clear();
    spoiled = false;
    return recording = true, OK;
}
API cuStreamEndCapture(void*, void** to) {
    LOCKED;
    if (!recording) return INVALID_VALUE;
    recording = false;
    *to = spoiled ? nullptr : new std::vector<Work>(recorded);
    return spoiled ? CAPTURE_INVALIDATED : OK;
}
API cuGraphInstantiateWithFlags(void** to, void* graph, unsigned long long) {
    return *to = new std::vector<Work>(*static_cast<std::vector<Work>*>(graph)), OK;
}
API cuGraphUpload(void*, void*) { return OK; }
API cuGraphLaunch(void* graph, void*) {
    LOCKED;
    if (!bound) return INVALID_CONTEXT;
    for (const auto& work : *static_cast<std::vector<Work>*>(graph)) queue.push_back(work);
    return OK;
}
API cuGraphExecDestroy(void* graph) { return delete static_cast<std::vector<Work>*>(graph), OK; }
API cuGraphDestroy(void* graph) { return delete static_cast<std::vector<Work>*>(graph), OK; }

extern "C" size_t cudnnGetVersion() { return 90300; }
API cudnnCreate(void** to) { return *to = reinterpret_cast<void*>(0x40), bound ? CUDNN_OK : 1001; }
API cudnnDestroy(void*) { return CUDNN_OK; }
API cudnnSetStream(void*, void* stream) { return stream == reinterpret_cast<void*>(0x20) ? CUDNN_OK : CUDNN_BAD_PARAM; }
API cudnnCreateTensorDescriptor(void** to) { return *to = new Tensor{}, CUDNN_OK; }
API cudnnDestroyTensorDescriptor(void* it) { return delete static_cast<Tensor*>(it), CUDNN_OK; }
API cudnnSetTensor4dDescriptorEx(void* it, int type, int n, int c, int h, int w, int ns, int cs, int hs, int ws) {
    *static_cast<Tensor*>(it) = {type, n, c, h, w, ns, cs, hs, ws};
    return n > 0 && c > 0 && h > 0 && w > 0 ? CUDNN_OK : CUDNN_BAD_PARAM;
}
API cudnnCreateFilterDescriptor(void** to) { return *to = new Filter{}, CUDNN_OK; }
API cudnnDestroyFilterDescriptor(void* it) { return delete static_cast<Filter*>(it), CUDNN_OK; }
API cudnnSetFilter4dDescriptor(void* it, int type, int format, int k, int c, int h, int w) {
    return *static_cast<Filter*>(it) = {type, format, k, c, h, w}, CUDNN_OK;
}
API cudnnCreateConvolutionDescriptor(void** to) { return *to = new Form{}, CUDNN_OK; }
API cudnnDestroyConvolutionDescriptor(void* it) { return delete static_cast<Form*>(it), CUDNN_OK; }
API cudnnSetConvolution2dDescriptor(void* it, int ph, int pw, int sh, int sw, int dh, int dw, int mode, int compute) {
    *static_cast<Form*>(it) = {ph, pw, sh, sw, mode, compute, 0};
    return dh == 1 && dw == 1 ? CUDNN_OK : CUDNN_BAD_PARAM;
}
API cudnnSetConvolutionMathType(void* it, int math) { return static_cast<Form*>(it)->math = math, CUDNN_OK; }
API cudnnCreateActivationDescriptor(void** to) { return *to = new Activation{}, CUDNN_OK; }
API cudnnDestroyActivationDescriptor(void* it) { return delete static_cast<Activation*>(it), CUDNN_OK; }
API cudnnSetActivationDescriptor(void* it, int mode, int, double) { return static_cast<Activation*>(it)->mode = mode, CUDNN_OK; }

API cudnnGetConvolutionForwardWorkspaceSize(void*, void* x, void* w, void* form, void* y, int algorithm, size_t* to) {
    *to = workspace_of(algorithm);
    return runs(*static_cast<Tensor*>(x), *static_cast<Filter*>(w), *static_cast<Form*>(form), *static_cast<Tensor*>(y), algorithm);
}

namespace {

int convolve(void* x_, const void* from, void* w_, const void* weight, void* form_, int algorithm, void* space, size_t bytes, const void* bias, int relu, void* y_, void* to) {
    LOCKED;
    const auto x = *static_cast<Tensor*>(x_), y = *static_cast<Tensor*>(y_);
    const auto w = *static_cast<Filter*>(w_);
    const auto form = *static_cast<Form*>(form_);
    const int refused = runs(x, w, form, y, algorithm);
    if (refused) return refused;
    const size_t needed = workspace_of(algorithm);
    if (bytes < needed || (needed && !inside(device, reinterpret_cast<uint64_t>(space), needed))) return CUDNN_BAD_PARAM;
    const bool careless = algorithm == 6;
    Work work = x.type == 2 ? convolution<half>(x, from, w, weight, form, bias, relu, y, to, careless)
                            : convolution<float>(x, from, w, weight, form, bias, relu, y, to, careless);
    return submit(std::move(work)) == OK ? CUDNN_OK : CUDNN_EXECUTION_FAILED;
}

}  // namespace

API cudnnConvolutionForward(void*, const void* alpha, void* x, const void* from, void* w, const void* weight, void* form, int algorithm, void* space, size_t bytes, const void* beta, void* y, void* to) {
    if (*static_cast<const float*>(alpha) != 1.0f || *static_cast<const float*>(beta) != 0.0f) return CUDNN_BAD_PARAM;
    if (algorithm == 1) return CUDNN_NOT_SUPPORTED;
    return convolve(x, from, w, weight, form, algorithm, space, bytes, nullptr, 0, y, to);
}
API cudnnConvolutionBiasActivationForward(void*, const void* alpha1, void* x, const void* from, void* w, const void* weight, void* form, int algorithm, void* space, size_t bytes, const void* alpha2, void* z, const void*, void* b, const void* bias, void* activation, void* y, void* to) {
    if (*static_cast<const float*>(alpha1) != 1.0f || *static_cast<const float*>(alpha2) != 0.0f || !z) return CUDNN_BAD_PARAM;
    const auto& bias_of = *static_cast<Tensor*>(b);
    const int relu = static_cast<Activation*>(activation)->mode == 1;
    if (bias_of.c != static_cast<Filter*>(w)->k || bias_of.n * bias_of.h * bias_of.w != 1) return CUDNN_BAD_PARAM;
    if (algorithm == 0 || (!relu && algorithm != 1)) return CUDNN_NOT_SUPPORTED;
    return convolve(x, from, w, weight, form, algorithm, space, bytes, bias, relu, y, to);
}
