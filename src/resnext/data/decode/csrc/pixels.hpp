// Types shared by the files of this folder. Pixels have 8 bits a channel, RGB interleaved; a plane is one channel.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace feed {

constexpr int LANES = 16;    // rows or columns that a kernel handles together
constexpr int FIXED_BITS = 22;
constexpr int PADDING = 64;  // bytes after a row or plane that kernels may read or write

// A rectangle of an image, `stride` bytes a row; a kernel may read PADDING bytes past its end.
struct Picture {
    const uint8_t* rows;
    size_t stride;
    int width, height;
};

// One dimension of a resize: output i is the sum of weights[i * most + k] * input[first[i] + k], k < count[i]. The
// weights are fixed-point with FIXED_BITS fractional bits, so the result is bit-identical to Pillow's.
struct Taps {
    int most = 0;
    std::vector<int> first, count, weights;
};

// An affine map from colours in 0..255 to colours in 0..1.
struct Colours {
    float matrix[3][3];
    float shift[3];
};

// The kernels, compiled once for each instruction set; all give bit-identical results.
struct Kernels {
    // Resizes `picture` to planes [3][size][size]; rounds and clamps to bytes after each of the two passes, as Pillow.
    void (*resize)(
        const Picture& picture, const Taps& horizontal, const Taps& vertical, int size, bool down_first,
        uint8_t* planes);
    // Converts planes of bytes to planes of floats by `colours`.
    void (*colour)(const uint8_t* planes, size_t pixels, const Colours& colours, float* out);
};

extern const Kernels portable, avx2, avx512;

}  // namespace feed
