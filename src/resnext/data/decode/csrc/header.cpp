// Reads the markers before the first scan of a JPEG file. Files with anything unusual are left to Pillow.
#include <cstring>

#include "jpeg.hpp"

namespace feed {
namespace {

enum Marker { SOF0 = 0xC0, SOF1 = 0xC1, SOF2 = 0xC2, DHT = 0xC4, SOI = 0xD8, SOS = 0xDA, DQT = 0xDB, DRI = 0xDD };
enum Application { APP0 = 0xE0, APP1 = 0xE1, APP2 = 0xE2, APP12 = 0xEC, APP13 = 0xED, APP14 = 0xEE, COM = 0xFE };

struct Segment {
    int marker;
    const uint8_t* body;
    size_t length;

    bool begins(const char* word) const {
        return length >= std::strlen(word) && !std::memcmp(body, word, std::strlen(word));
    }
};

int big_endian(const uint8_t* at) { return at[0] << 8 | at[1]; }

bool frame(const Segment& segment, Header& header) {
    if (header.width != 0 || segment.length < 6 || segment.body[0] != 8) return false;
    header.height = big_endian(segment.body + 1);
    header.width = big_endian(segment.body + 3);
    header.components = segment.body[5];
    const bool known = header.components == 1 || header.components == 3;
    if (!known || header.width == 0 || header.height == 0) return false;
    if (segment.length != 6 + 3 * (size_t)header.components) return false;
    const int luma = segment.body[7];
    for (int i = 1; i < header.components; i++) {
        const int chroma = segment.body[7 + 3 * i];
        header.uneven |= (luma >> 4) * (chroma & 15) != (luma & 15) * (chroma >> 4);
    }
    return true;
}

// Walks Photoshop's resource blocks as Pillow does. Pillow rejects a file whose last block ends before its name.
bool good_resources(const Segment& segment) {
    size_t at = 14;
    while (at + 4 <= segment.length && !std::memcmp(segment.body + at, "8BIM", 4)) {
        at += 6;
        if (at > segment.length) return true;
        if (at == segment.length) return false;
        at += 1 + segment.body[at];
        at += at & 1;
        if (at + 4 > segment.length) return true;
        at += 4 + ((size_t)big_endian(segment.body + at) << 16 | (size_t)big_endian(segment.body + at + 2));
        at += at & 1;
    }
    return true;
}

// Whether Pillow must check the segment: EXIF and XMP (which may have an orientation), previews, and what may fail.
bool metadata(const Segment& segment) {
    if (segment.marker == APP2) return !segment.begins("ICC_PROFILE") || segment.length < 14;
    return segment.marker == APP1 || (segment.marker == APP13 && !good_resources(segment));
}

// Whether Pillow surely accepts the segment.
bool usual(const Segment& segment, Header& header, bool& restarts) {
    switch (segment.marker) {
        case SOF0:
        case SOF1:
        case SOF2:
            return frame(segment, header);
        case APP0:
            return segment.begins("JFIF") && segment.length >= 12;
        case APP14:
            return segment.begins("Adobe") && segment.length >= 12;
        case DRI:
            restarts = true;
            return segment.length == 2;
        case APP2:
        case APP12:
        case APP13:
        case DHT:
        case DQT:
        case COM:
            return true;
        default:
            return false;
    }
}

}  // namespace

Header read_header(const uint8_t* data, size_t size) {
    Header header;
    bool restarts = false, progressive = false, plain = true;
    if (size < 4 || data[0] != 0xFF || data[1] != SOI) return header;
    for (size_t at = 2; at + 4 <= size;) {
        if (data[at] != 0xFF) return header;
        const Segment segment = {data[at + 1], data + at + 4, (size_t)big_endian(data + at + 2) - 2};
        if (big_endian(data + at + 2) < 2 || segment.length > size - at - 4) return header;
        at += 4 + segment.length;
        if (segment.marker == SOS) {
            header.plain = plain && header.width != 0 && segment.length >= 1;
            header.single_scan = !restarts && !progressive && segment.body[0] == header.components;
            header.scan = at;
            return header;
        }
        progressive |= segment.marker == SOF2;
        if (metadata(segment))
            header.tagged = true;
        else
            plain = plain && usual(segment, header, restarts);
    }
    return header;
}

}  // namespace feed
