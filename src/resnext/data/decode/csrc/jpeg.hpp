// Decodes rectangles of JPEG files with the libjpeg-turbo that Pillow uses.
#pragma once
#include "pixels.hpp"

namespace feed {

// The header of a file, up to its first scan. Pillow surely opens `plain` files; if one is `tagged`, Pillow must still
// accept its metadata. Files that are not plain are left to Pillow.
struct Header {
    int width = 0, height = 0, components = 0;
    bool plain = false, tagged = false;
    bool uneven = false;        // chroma is subsampled differently in width and height, as in 4:2:2
    bool single_scan = false;   // baseline or extended sequential Huffman, all components in one scan, no restarts
    size_t scan = 0;            // where the entropy-coded bytes begin
};

struct Box {
    int left, top, width, height;
};

// Takes the functions of a libjpeg-turbo, which `decode` needs. Returns false if its ABI is not JPEG_LIB_VERSION.
bool use_turbo(void* const* functions);

Header read_header(const uint8_t* data, size_t size);

// Decodes the pixels of `box` into `buffer`. The box is in the image scaled by 1 / denominator (1, 2, 4 or 8). Returns
// true only if Pillow would decode the whole file without an error.
bool decode(
    const uint8_t* data, size_t size, const Header& header, Box box, int denominator, std::vector<uint8_t>& buffer,
    Picture& picture);

}  // namespace feed
