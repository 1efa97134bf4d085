// What the parts of this folder share. Pixels are 8 bits a channel, RGB interleaved unless a name says planes.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace feed {

constexpr int LANES = 16;    // rows or columns that a kernel handles together
constexpr int FIXED_BITS = 22;
constexpr int PADDING = 64;  // bytes after a row or plane that kernels may read or write

// A rectangle of a picture, `stride` bytes a row; a kernel may read PADDING bytes past its end.
struct Picture {
    const uint8_t* rows;
    size_t stride;
    int width, height;
};

// One dimension of a resize: output i is the sum of weights[i * most + k] * input[first[i] + k], k < count[i], with
// FIXED_BITS bits behind the point: Pillow's arithmetic, to the bit.
struct Taps {
    int most = 0;
    std::vector<int> first, count, weights;
};

// An affine map of colours in 0..255 to colours in 0..1.
struct Colours {
    float matrix[3][3];
    float shift[3];
};

// The kernels, compiled once for each instruction set; all give the same bits.
struct Kernels {
    // `picture` to planes [3][size][size], rounded and clamped to bytes after each of the two passes, as Pillow does.
    void (*resize)(
        const Picture& picture, const Taps& horizontal, const Taps& vertical, int size, bool down_first,
        uint8_t* planes);
    // Planes of bytes to planes of floats through `colours`.
    void (*colour)(const uint8_t* planes, size_t pixels, const Colours& colours, float* out);
};

extern const Kernels portable, avx2, avx512;

}  // namespace feed
