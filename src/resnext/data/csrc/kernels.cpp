// Resize and colour, compiled once for each instruction set (-DISA=portable, avx2 or avx512).
//
// No multiplication is fused with an addition (-ffp-contract=off), so every instruction set gives the same bits.
#include "lanes.hpp"

namespace feed {
namespace {

constexpr size_t padded(size_t size) { return (size + LANES - 1) / LANES * LANES; }

// Where a pass writes: rows of bytes, and for planes the way from one to the next.
struct Target {
    uint8_t* rows;
    size_t stride, plane;
};

// 16 rows of the picture as columns of floats: [width * 3][16].
void turned(const Picture& picture, int row, float* columns) {
    const uint8_t* rows[LANES];
    for (int i = 0; i < LANES; i++) rows[i] = picture.rows + picture.stride * std::min(row + i, picture.height - 1);
    alignas(64) uint8_t block[LANES * LANES];
    for (size_t at = 0; at < (size_t)picture.width * 3; at += LANES) {
        transpose(rows, block, LANES);
        for (int i = 0; i < LANES; i++) {
            store(columns + (at + i) * LANES, load_bytes(block + i * LANES));
            rows[i] += LANES;
        }
    }
}

// 16 rows through the horizontal filter: from columns [width * 3][16] to bytes [3][padded size][16].
void filter_columns(const float* columns, const Taps& taps, int size, uint8_t* out) {
    const size_t plane = padded(size) * LANES;
    for (int x = 0; x < size; x++) {
        const float* weight = &taps.weights[(size_t)x * taps.most];
        const float* column = columns + (size_t)taps.first[x] * 3 * LANES;
        Lanes red = all(0), green = all(0), blue = all(0);
        for (int k = 0; k < taps.count[x]; k++, column += 3 * LANES) {
            const Lanes factor = all(weight[k]);
            add(red, factor, load(column));
            add(green, factor, load(column + LANES));
            add(blue, factor, load(column + 2 * LANES));
        }
        store_bytes(out + x * LANES, red);
        store_bytes(out + plane + x * LANES, green);
        store_bytes(out + 2 * plane + x * LANES, blue);
    }
}

// `count` rows of one plane from columns of bytes [padded size][16].
void turn_back(const uint8_t* columns, int size, int count, uint8_t* rows, size_t stride) {
    alignas(64) uint8_t block[LANES * LANES];
    for (int x = 0; x < size; x += LANES) {
        const uint8_t* from[LANES];
        for (int i = 0; i < LANES; i++) from[i] = columns + (size_t)(x + i) * LANES;
        transpose(from, block, LANES);
        const int wide = std::min(LANES, size - x);
        for (int i = 0; i < count; i++) std::memcpy(rows + i * stride + x, block + i * LANES, wide);
    }
}

// The horizontal pass: interleaved rows to three planes, each with the picture's height.
void across(const Picture& picture, const Taps& taps, int size, const Target& target) {
    const size_t plane = padded(size) * LANES;
    std::vector<float> columns(padded((size_t)picture.width * 3) * LANES);
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

// The vertical pass: `bytes` of each row, whatever they mean, to `size` rows.
void down(const uint8_t* rows, size_t stride, size_t bytes, const Taps& taps, int size, const Target& target) {
    uint8_t last[LANES];
    for (int y = 0; y < size; y++) {
        const float* weight = &taps.weights[(size_t)y * taps.most];
        const uint8_t* first = rows + stride * taps.first[y];
        uint8_t* out = target.rows + y * target.stride;
        for (size_t x = 0; x < bytes; x += LANES) {
            const uint8_t* row = first + x;
            Lanes sum = all(0);
            for (int k = 0; k < taps.count[y]; k++, row += stride) add(sum, all(weight[k]), load_bytes(row));
            if (bytes - x >= LANES) {
                store_bytes(out + x, sum);
            } else {
                store_bytes(last, sum);
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
    float last[LANES];
    for (size_t at = 0; at < pixels; at += LANES) {
        const Lanes red = load_bytes(planes + at), green = load_bytes(planes + pixels + at);
        const Lanes blue = load_bytes(planes + 2 * pixels + at);
        for (int channel = 0; channel < 3; channel++) {
            Lanes sum = all(colours.shift[channel]);
            add(sum, all(colours.matrix[channel][0]), red);
            add(sum, all(colours.matrix[channel][1]), green);
            add(sum, all(colours.matrix[channel][2]), blue);
            float* to = out + channel * pixels + at;
            if (pixels - at >= LANES) {
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
