// Rectangles of JPEG files, decoded by the libjpeg-turbo that Pillow uses.
#pragma once
#include <string>

#include "pixels.hpp"

namespace feed {

// What a file says before its first scan. Pillow surely opens `plain` files, if it accepts their metadata where they are
// `tagged`; of others it must decide.
struct Header {
    int width = 0, height = 0, components = 0;
    bool plain = false, tagged = false;
    bool uneven = false;        // colours have fewer columns than rows, or the other way round, as in 4:2:2
    bool single_scan = false;   // baseline or extended sequential Huffman, all components in one scan, no restarts
    size_t scan = 0;            // where the entropy-coded bytes begin
};

struct Box {
    int left, top, width, height;
};

// Whether `path` is a libjpeg-turbo that fits; else `why` says what it is. Must succeed before `decode`.
bool load_turbo(const char* path, std::string& why);

Header read_header(const uint8_t* data, size_t size);

// The pixels of `box`, which lies in the picture after scaling it by 1 / denominator (1, 2, 4 or 8); they end up in
// `buffer`. Succeeds only where Pillow decodes the whole file without an error; says nothing about why not.
bool decode(
    const uint8_t* data, size_t size, const Header& header, Box box, int denominator, std::vector<uint8_t>& buffer,
    Picture& picture);

}  // namespace feed
