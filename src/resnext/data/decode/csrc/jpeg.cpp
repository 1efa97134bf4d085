#include "jpeg.hpp"

#include <setjmp.h>

#include <algorithm>
#include <cstdio>
#include <cstring>

#include "third_party/libjpeg/jpeglib.h"

namespace feed {
namespace {

// Functions of the library, in the order of FUNCTIONS in turbojpeg.py. Python finds them in that very library: the
// process may have other libjpegs (torchvision has its own).
struct Turbo {
    decltype(&jpeg_std_error) std_error;
    decltype(&jpeg_CreateDecompress) create;
    decltype(&jpeg_read_header) read_header;
    decltype(&jpeg_start_decompress) start;
    decltype(&jpeg_crop_scanline) crop;
    decltype(&jpeg_skip_scanlines) skip;
    decltype(&jpeg_read_scanlines) read;
    decltype(&jpeg_finish_decompress) finish;
    decltype(&jpeg_resync_to_restart) resync;
    decltype(&jpeg_destroy_decompress) destroy;
} turbo = {};

constexpr int EDGE = 4;  // pixels decoded left and right of the box, since chroma upsampling uses neighbours

// One file being decoded. libjpeg jumps back to `failed` on an error, so nothing here has a destructor.
struct Decoder {
    jpeg_decompress_struct info;
    jpeg_error_mgr errors;
    jpeg_source_mgr source;
    jmp_buf failed;
    bool ended;  // libjpeg asked for bytes after the last one
};

Decoder* of(j_common_ptr info) { return static_cast<Decoder*>(info->client_data); }

void fail(j_common_ptr info) { longjmp(of(info)->failed, 1); }

boolean out_of_bytes(j_decompress_ptr info) {
    of((j_common_ptr)info)->ended = true;
    fail((j_common_ptr)info);
    return FALSE;
}

void skip_bytes(j_decompress_ptr info, long count) {
    if (count <= 0) return;
    if ((size_t)count > info->src->bytes_in_buffer) out_of_bytes(info);
    info->src->next_input_byte += count;
    info->src->bytes_in_buffer -= (size_t)count;
}

void say_nothing(j_common_ptr, int) {}
void print_nothing(j_common_ptr) {}
void do_nothing(j_decompress_ptr) {}

void begin(Decoder& decoder, const uint8_t* data, size_t size) {
    decoder.info.err = turbo.std_error(&decoder.errors);
    decoder.errors.error_exit = fail;
    decoder.errors.emit_message = say_nothing;
    decoder.errors.output_message = print_nothing;
    decoder.info.client_data = &decoder;
    turbo.create(&decoder.info, JPEG_LIB_VERSION, sizeof(jpeg_decompress_struct));
    decoder.source.next_input_byte = data;
    decoder.source.bytes_in_buffer = size;
    decoder.source.init_source = do_nothing;
    decoder.source.fill_input_buffer = out_of_bytes;
    decoder.source.skip_input_data = skip_bytes;
    decoder.source.resync_to_restart = turbo.resync;
    decoder.source.term_source = do_nothing;
    decoder.info.src = &decoder.source;
}

// Whether the first marker after the start of the only scan ends the image. Then no later byte can cause an error.
bool ends_well(const uint8_t* data, size_t size, size_t at) {
    while (at + 1 < size) {
        const auto* next = static_cast<const uint8_t*>(std::memchr(data + at, 0xFF, size - 1 - at));
        if (next == nullptr) return false;
        at = (size_t)(next - data) + 1;
        if (data[at] == 0xD9) return true;
        if (data[at] != 0 && data[at] != 0xFF) return false;
    }
    return false;
}

// The columns that libjpeg decodes: the box, widened to whole blocks.
struct Cut {
    JDIMENSION left = 0, width = 0;
};

// Decodes up to the first row of the box. Returns false if the image does not match its header.
bool start(Decoder& decoder, const Header& header, Box box, int denominator, Cut& cut) {
    jpeg_decompress_struct& info = decoder.info;
    if (turbo.read_header(&info, TRUE) != JPEG_HEADER_OK) return false;
    if ((int)info.image_width != header.width || (int)info.image_height != header.height) return false;
    if (info.num_components != header.components) return false;
    info.out_color_space = JCS_RGB;
    info.scale_num = 1;
    info.scale_denom = (unsigned)denominator;
    if (!turbo.start(&info) || info.output_components != 3) return false;
    if (box.left + box.width > (int)info.output_width || box.top + box.height > (int)info.output_height) return false;
    cut.left = (JDIMENSION)std::max(0, box.left - EDGE);
    cut.width = std::min(info.output_width, (JDIMENSION)(box.left + box.width + EDGE)) - cut.left;
    if (cut.width < info.output_width) turbo.crop(&info, &cut.left, &cut.width);
    return turbo.skip(&info, (JDIMENSION)box.top) == (JDIMENSION)box.top;
}

// Reads the rows below the box if they could have an error that Pillow would report; `line` is a buffer for one row.
bool rest_is_good(Decoder& decoder, const Header& header, const uint8_t* data, size_t size, JSAMPROW line) {
    jpeg_decompress_struct& info = decoder.info;
    if (header.single_scan && ends_well(data, size, header.scan)) return true;
    const JDIMENSION left = info.output_height - info.output_scanline;
    if (left > 1) turbo.skip(&info, left - 1);  // not to the end: that would not check the bytes
    if (left > 0) turbo.read(&info, &line, 1);
    if (setjmp(decoder.failed)) return decoder.ended;  // Pillow accepts a missing end marker
    turbo.finish(&info);
    return true;
}

bool decode_box(
    Decoder& decoder, const uint8_t* data, size_t size, const Header& header, Box box, int denominator,
    uint8_t* buffer, size_t stride, Cut& cut) {
    if (setjmp(decoder.failed)) return false;
    begin(decoder, data, size);
    if (!start(decoder, header, box, denominator, cut)) return false;
    if ((size_t)decoder.info.output_width * 3 > stride) return false;
    for (int row = 0; row < box.height; row++) {
        JSAMPROW line = buffer + (size_t)row * stride;
        if (turbo.read(&decoder.info, &line, 1) != 1) return false;
    }
    return rest_is_good(decoder, header, data, size, buffer + (size_t)box.height * stride);
}

}  // namespace

bool use_turbo(void* const* functions) {
    std::memcpy(&turbo, functions, sizeof turbo);
    Decoder decoder = {};
    const bool fits = setjmp(decoder.failed) == 0 && (begin(decoder, nullptr, 0), true);
    if (fits) turbo.destroy(&decoder.info);
    return fits;
}

bool decode(
    const uint8_t* data, size_t size, const Header& header, Box box, int denominator, std::vector<uint8_t>& buffer,
    Picture& picture) {
    const int full = (header.width + denominator - 1) / denominator;
    const size_t stride = (size_t)std::min(full, box.width + 2 * EDGE + 64) * 3 + PADDING;
    buffer.resize(stride * ((size_t)box.height + 1) + PADDING);
    Decoder decoder = {};
    Cut cut;
    const bool good = decode_box(decoder, data, size, header, box, denominator, buffer.data(), stride, cut);
    turbo.destroy(&decoder.info);
    picture = {buffer.data() + (size_t)(box.left - (int)cut.left) * 3, stride, box.width, box.height};
    return good;
}

}  // namespace feed
