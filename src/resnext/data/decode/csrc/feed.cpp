// The C interface: decodes a crop of a JPEG file into one image of a batch.
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <string>

#include "jpeg.hpp"
#include "pixels.hpp"

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace feed {
namespace {

// The kernels for the best instruction set of this machine, limited by RESNEXT_ISA.
const Kernels& best_kernels() {
#if defined(__x86_64__)
    const char* said = std::getenv("RESNEXT_ISA");
    const std::string cap = said ? said : "avx512";
    if (cap == "avx512" && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"))
        return avx512;
    if (cap != "portable" && __builtin_cpu_supports("avx2")) return avx2;
#endif
    return portable;
}

const Kernels* kernels = &portable;

constexpr double GREY[3] = {0.299, 0.587, 0.114};
constexpr size_t KEPT = 64 << 20;  // a larger buffer, in bytes, is freed after an image

struct Work {
    std::vector<uint8_t> pixels, planes;
};

double bicubic(double x) {
    x = std::fabs(x);
    if (x < 1) return ((-0.5 + 2) * x - (-0.5 + 3)) * x * x + 1;
    return x < 2 ? (((x - 5) * x + 8) * x - 4) * -0.5 : 0;
}

double bilinear(double x) { return std::fabs(x) < 1 ? 1 - std::fabs(x) : 0; }

// Pillow's precompute_coeffs: weights to resize the input from `begin` to `end` to `size`; `flip` reverses the output.
Taps taps_of(int input, double begin, double end, int size, bool cubic, bool flip) {
    const double scale = (end - begin) / size, wide = std::max(scale, 1.0), support = (cubic ? 2 : 1) * wide;
    Taps taps;
    taps.most = (int)std::ceil(support) * 2 + 1;
    taps.first.resize(size);
    taps.count.resize(size);
    taps.weights.assign((size_t)size * taps.most, 0);
    std::vector<double> values(taps.most);
    for (int i = 0; i < size; i++) {
        const double center = begin + (i + 0.5) * scale;
        const int first = std::max((int)(center - support + 0.5), 0);
        const int count = std::min((int)(center + support + 0.5), input) - first;
        double sum = 0;
        for (int k = 0; k < count; k++) {
            const double x = (k + first - center + 0.5) / wide;
            sum += values[k] = cubic ? bicubic(x) : bilinear(x);
        }
        const int place = flip ? size - 1 - i : i;
        taps.first[place] = first;
        taps.count[place] = count;
        for (int k = 0; k < count; k++)
            taps.weights[(size_t)place * taps.most + k] = (int)std::round(values[k] / sum * (1 << FIXED_BITS));
    }
    return taps;
}

// The crop to decode. Plain values, filled in by ctypes.
struct Request {
    int32_t left, top, width, height;  // the crop, in pixels of the whole image
    int32_t size, cubic, flip;
    int32_t spare;                     // least decoded pixels a side for each output pixel, when decoding at a scale
    int32_t down_first;                // whether the vertical pass is first
    int32_t output;                    // 0: bytes; 1: floats through the colour operations; 2: nothing, only decode
    int32_t operations[3];             // 0 brightness, 1 contrast, 2 saturation; -1 none
    double alphas[3];
    double shift[3];
};

// Combines the operations into one affine map. Saturation does not change grey, so the mean grey that contrast mixes in
// is that of the crop times the brightness so far.
Colours colours_of(const Request& request, const uint8_t* planes, size_t pixels) {
    double m[3][3] = {{1, 0, 0}, {0, 1, 0}, {0, 0, 1}}, shift = 0, grey = 0;
    for (int channel = 0; channel < 3; channel++) {
        uint64_t sum = 0;
        for (size_t i = 0; i < pixels; i++) sum += planes[channel * pixels + i];
        grey += GREY[channel] * (double)sum / (double)pixels;
    }
    for (int step = 0; step < 3; step++) {
        const double alpha = request.alphas[step];
        const int operation = request.operations[step];
        if (operation < 0) continue;
        for (int column = 0; column < 3; column++) {
            const double mixed = GREY[0] * m[0][column] + GREY[1] * m[1][column] + GREY[2] * m[2][column];
            for (int row = 0; row < 3; row++)
                m[row][column] = alpha * m[row][column] + (operation == 2 ? (1 - alpha) * mixed : 0);
        }
        if (operation == 0) {
            grey *= alpha;
            shift *= alpha;
        }
        if (operation == 1) shift = alpha * shift + (1 - alpha) * grey;
    }
    Colours colours;
    for (int row = 0; row < 3; row++) {
        for (int column = 0; column < 3; column++) colours.matrix[row][column] = (float)(m[row][column] / 255);
        colours.shift[row] = (float)(shift / 255 + request.shift[row]);
    }
    return colours;
}

bool valid(const Request& r, const Header& h) {
    const bool inside = r.left >= 0 && r.top >= 0 && r.width >= 1 && r.height >= 1 && r.width <= h.width - r.left &&
        r.height <= h.height - r.top;
    return inside && r.size >= 1 && r.size <= 8192 && r.spare >= 1;
}

// The denominator of the scale to decode at. Unevenly subsampled chroma is decoded at half that width, so it needs
// twice the pixels. 1/8 is not used: there libjpeg does not smooth chroma.
int scale_of(const Request& r, const Header& h) {
    const int64_t least = (int64_t)r.size * r.spare * (h.uneven ? 2 : 1), side = std::min(r.width, r.height);
    return side >= 4 * least ? 4 : side >= 2 * least ? 2 : 1;
}

bool image(const uint8_t* data, size_t size, const Header& header, const Request& r, void* out, Work& work) {
    const int d = scale_of(r, header), right = r.left + r.width, bottom = r.top + r.height;
    const Box box = {r.left / d, r.top / d, (right + d - 1) / d - r.left / d, (bottom + d - 1) / d - r.top / d};
    Picture picture;
    if (!decode(data, size, header, box, d, work.pixels, picture)) return false;
    if (r.output == 2) return true;
    const auto taps = [&](int input, int begin, int length, int origin, bool flip) {
        return taps_of(input, (double)begin / d - origin, (double)(begin + length) / d - origin, r.size, r.cubic, flip);
    };
    const Taps across = taps(box.width, r.left, r.width, box.left, r.flip);
    const Taps down = taps(box.height, r.top, r.height, box.top, false);
    const size_t pixels = (size_t)r.size * r.size;
    if (r.output == 0) {
        kernels->resize(picture, across, down, r.size, r.down_first, static_cast<uint8_t*>(out));
        return true;
    }
    work.planes.resize(3 * pixels + PADDING);
    kernels->resize(picture, across, down, r.size, r.down_first, work.planes.data());
    kernels->colour(work.planes.data(), pixels, colours_of(r, work.planes.data(), pixels), static_cast<float*>(out));
    return true;
}

}  // namespace
}  // namespace feed

using namespace feed;

// Takes the functions of a libjpeg-turbo. Returns 0, or 1 if it is of another ABI.
EXPORT int feed_start(void* const* functions) {
    kernels = &best_kernels();
    return use_turbo(functions) ? 0 : 1;
}

// Reads the header to {plain, tagged, width, height}.
EXPORT void feed_header(const uint8_t* data, size_t size, int32_t* out) {
    const Header header = read_header(data, size);
    const int32_t values[4] = {header.plain, header.tagged, header.width, header.height};
    std::memcpy(out, values, sizeof values);
}

// Decodes to `out`: bytes [3, size, size], or floats in 0..1, not clamped. Returns 0, or 1 if Pillow must decode.
EXPORT int feed_image(const uint8_t* data, size_t size, const Request* request, void* out) try {
    thread_local Work work;
    const Header header = read_header(data, size);
    if (!header.plain || !valid(*request, header)) return 1;
    const bool good = image(data, size, header, *request, out, work);
    if (work.pixels.capacity() > KEPT) work.pixels = {};
    return good ? 0 : 1;
} catch (const std::exception&) {
    return 1;
}
