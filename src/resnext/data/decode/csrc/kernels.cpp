// Resize and colour kernels, compiled once for each instruction set (-DISA=portable, avx2 or avx512).
//
// All instruction sets give bit-identical results: the resize uses integers, and the compiler may not fuse the
// multiplications and additions of the colour kernel (-ffp-contract=off).
#include "lanes.hpp"

namespace feed {
namespace {

constexpr int HALF = 1 << (FIXED_BITS - 1);

constexpr size_t padded(size_t size) { return (size + LANES - 1) / LANES * LANES; }

// Output of a pass: rows of bytes, and for planes the distance from one to the next.
struct Target {
    uint8_t* rows;
    size_t stride, plane;
};

// Transposes 16 rows of the image to columns of integers: [width * 3][16].
void turned(const Picture& picture, int row, int32_t* columns) {
    const uint8_t* rows[LANES];
    for (int i = 0; i < LANES; i++) rows[i] = picture.rows + picture.stride * std::min(row + i, picture.height - 1);
    alignas(64) uint8_t block[LANES * LANES];
    for (size_t at = 0; at < (size_t)picture.width * 3; at += LANES) {
        transpose(rows, block);
        for (int i = 0; i < LANES * LANES; i += WIDTH) store(columns + at * LANES + i, widened(block + i));
        for (int i = 0; i < LANES; i++) rows[i] += LANES;
    }
}

// Filters 16 rows horizontally: from columns [width * 3][16] to bytes [3][padded size][16].
void filter_columns(const int32_t* columns, const Taps& taps, int size, uint8_t* out) {
    const size_t plane = padded(size) * LANES;
    for (int x = 0; x < size; x++) {
        const int* weight = &taps.weights[(size_t)x * taps.most];
        const int32_t* column = columns + (size_t)taps.first[x] * 3 * LANES;
        Sums red(HALF), green(HALF), blue(HALF);
        for (int k = 0; k < taps.count[x]; k++, column += 3 * LANES) {
            red.add(weight[k], column);
            green.add(weight[k], column + LANES);
            blue.add(weight[k], column + 2 * LANES);
        }
        red.write(out + x * LANES);
        green.write(out + plane + x * LANES);
        blue.write(out + 2 * plane + x * LANES);
    }
}

// Transposes columns of bytes [padded size][16] back to `count` rows of one plane.
void turn_back(const uint8_t* columns, int size, int count, uint8_t* rows, size_t stride) {
    alignas(64) uint8_t block[LANES * LANES];
    for (int x = 0; x < size; x += LANES) {
        const uint8_t* from[LANES];
        for (int i = 0; i < LANES; i++) from[i] = columns + (size_t)(x + i) * LANES;
        transpose(from, block);
        const int wide = std::min(LANES, size - x);
        for (int i = 0; i < count; i++) std::memcpy(rows + i * stride + x, block + i * LANES, wide);
    }
}

// The horizontal pass: interleaved rows to three planes, each with the image's height.
void across(const Picture& picture, const Taps& taps, int size, const Target& target) {
    const size_t plane = padded(size) * LANES;
    std::vector<int32_t> columns(padded((size_t)picture.width * 3) * LANES);
    std::vector<uint8_t> filtered(3 * plane);
    for (int row = 0; row < picture.height; row += LANES) {
        turned(picture, row, columns.data());
        filter_columns(columns.data(), taps, size, filtered.data());
        for (int channel = 0; channel < 3; channel++)
            turn_back(
                &filtered[channel * plane], size, std::min(LANES, picture.height - row),
                target.rows + channel * target.plane + row * target.stride, target.stride);
    }
}

// The vertical pass: rows of `bytes` bytes (a plane or interleaved pixels) to `size` rows.
void down(const uint8_t* rows, size_t stride, size_t bytes, const Taps& taps, int size, const Target& target) {
    uint8_t last[LANES];
    for (int y = 0; y < size; y++) {
        const int* weight = &taps.weights[(size_t)y * taps.most];
        const uint8_t* first = rows + stride * taps.first[y];
        uint8_t* out = target.rows + y * target.stride;
        for (size_t x = 0; x < bytes; x += LANES) {
            const uint8_t* row = first + x;
            Sums sums(HALF);
            for (int k = 0; k < taps.count[y]; k++, row += stride) sums.add_bytes(weight[k], row);
            if (bytes - x >= LANES) {
                sums.write(out + x);
            } else {
                sums.write(last);
                std::memcpy(out + x, last, bytes - x);
            }
        }
    }
}

void resize(
    const Picture& picture, const Taps& horizontal, const Taps& vertical, int size, bool down_first, uint8_t* planes) {
    const size_t plane = (size_t)size * size;
    if (down_first) {
        const size_t stride = padded((size_t)picture.width * 3);
        std::vector<uint8_t> rows(stride * size + PADDING);
        down(picture.rows, picture.stride, (size_t)picture.width * 3, vertical, size, {rows.data(), stride, 0});
        across({rows.data(), stride, picture.width, size}, horizontal, size, {planes, (size_t)size, plane});
        return;
    }
    const size_t between = (size_t)size * picture.height;
    std::vector<uint8_t> rows(3 * between + PADDING);
    across(picture, horizontal, size, {rows.data(), (size_t)size, between});
    for (int channel = 0; channel < 3; channel++)
        down(
            &rows[channel * between], (size_t)size, (size_t)size, vertical, size,
            {planes + channel * plane, (size_t)size, 0});
}

void colour(const uint8_t* planes, size_t pixels, const Colours& colours, float* out) {
    float last[WIDTH];
    for (size_t at = 0; at < pixels; at += WIDTH) {
        Floats rgb[3];
        for (int i = 0; i < 3; i++) rgb[i] = __builtin_convertvector(widened(planes + i * pixels + at), Floats);
        for (int channel = 0; channel < 3; channel++) {
            const float* m = colours.matrix[channel];
            const Floats sum = ((colours.shift[channel] + m[0] * rgb[0]) + m[1] * rgb[1]) + m[2] * rgb[2];
            float* to = out + channel * pixels + at;
            if (pixels - at >= (size_t)WIDTH) {
                store(to, sum);
            } else {
                store(last, sum);
                std::memcpy(to, last, (pixels - at) * sizeof(float));
            }
        }
    }
}

}  // namespace

extern const Kernels ISA = {resize, colour};

}  // namespace feed
