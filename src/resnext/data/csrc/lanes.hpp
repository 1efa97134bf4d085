// Sixteen floats, in as many registers as the instruction set at hand needs for them.
#pragma once
#include <algorithm>
#include <cstring>

#include "pixels.hpp"
#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace feed {
namespace {

#if defined(__AVX512F__)
typedef __m512 Part;
inline Part part(float value) { return _mm512_set1_ps(value); }
inline Part load_part(const float* from) { return _mm512_loadu_ps(from); }
inline void store_part(float* to, Part p) { _mm512_storeu_ps(to, p); }
inline Part load_bytes_part(const uint8_t* from) {
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)from)));
}
inline Part clamped(Part p) { return _mm512_min_ps(_mm512_max_ps(p, part(0)), part(255)); }
#elif defined(__AVX2__)
typedef __m256 Part;
inline Part part(float value) { return _mm256_set1_ps(value); }
inline Part load_part(const float* from) { return _mm256_loadu_ps(from); }
inline void store_part(float* to, Part p) { _mm256_storeu_ps(to, p); }
inline Part load_bytes_part(const uint8_t* from) {
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)from)));
}
inline Part clamped(Part p) { return _mm256_min_ps(_mm256_max_ps(p, part(0)), part(255)); }
#elif defined(__SSE2__)
typedef __m128 Part;
inline Part part(float value) { return _mm_set1_ps(value); }
inline Part load_part(const float* from) { return _mm_loadu_ps(from); }
inline void store_part(float* to, Part p) { _mm_storeu_ps(to, p); }
inline Part load_bytes_part(const uint8_t* from) {
    int four;
    std::memcpy(&four, from, sizeof four);
    const __m128i zero = _mm_setzero_si128(), words = _mm_unpacklo_epi8(_mm_cvtsi32_si128(four), zero);
    return _mm_cvtepi32_ps(_mm_unpacklo_epi16(words, zero));
}
inline Part clamped(Part p) { return _mm_min_ps(_mm_max_ps(p, part(0)), part(255)); }
#else
typedef float Part;
inline Part part(float value) { return value; }
inline Part load_part(const float* from) { return *from; }
inline void store_part(float* to, Part p) { *to = p; }
inline Part load_bytes_part(const uint8_t* from) { return *from; }
inline Part clamped(Part p) { return std::min(std::max(p, 0.0f), 255.0f); }
#endif

constexpr int WIDTH = sizeof(Part) / sizeof(float), PARTS = LANES / WIDTH;

struct Lanes {
    Part parts[PARTS];
};

inline Lanes all(float value) {
    Lanes lanes;
    for (int i = 0; i < PARTS; i++) lanes.parts[i] = part(value);
    return lanes;
}

inline Lanes load(const float* from) {
    Lanes lanes;
    for (int i = 0; i < PARTS; i++) lanes.parts[i] = load_part(from + i * WIDTH);
    return lanes;
}

inline Lanes load_bytes(const uint8_t* from) {
    Lanes lanes;
    for (int i = 0; i < PARTS; i++) lanes.parts[i] = load_bytes_part(from + i * WIDTH);
    return lanes;
}

inline void store(float* to, const Lanes& lanes) {
    for (int i = 0; i < PARTS; i++) store_part(to + i * WIDTH, lanes.parts[i]);
}

// sum += factor * lanes, rounded after each of the two operations.
inline void add(Lanes& sum, const Lanes& factor, const Lanes& lanes) {
    for (int i = 0; i < PARTS; i++) sum.parts[i] = sum.parts[i] + factor.parts[i] * lanes.parts[i];
}

// Half up and clamped to 0..255: the rounding of Pillow's fixed point.
inline void store_bytes(uint8_t* to, const Lanes& lanes) {
    Part up[PARTS];
    for (int i = 0; i < PARTS; i++) up[i] = clamped(lanes.parts[i] + part(0.5f));
#if defined(__AVX512F__)
    _mm_storeu_si128((__m128i*)to, _mm512_cvtepi32_epi8(_mm512_cvttps_epi32(up[0])));
#elif defined(__AVX2__)
    const __m256i words = _mm256_packus_epi32(_mm256_cvttps_epi32(up[0]), _mm256_cvttps_epi32(up[1]));
    const __m256i sorted = _mm256_permute4x64_epi64(words, 0xD8);
    _mm_storeu_si128(
        (__m128i*)to, _mm_packus_epi16(_mm256_castsi256_si128(sorted), _mm256_extracti128_si256(sorted, 1)));
#elif defined(__SSE2__)
    const __m128i low = _mm_packs_epi32(_mm_cvttps_epi32(up[0]), _mm_cvttps_epi32(up[1]));
    const __m128i high = _mm_packs_epi32(_mm_cvttps_epi32(up[2]), _mm_cvttps_epi32(up[3]));
    _mm_storeu_si128((__m128i*)to, _mm_packus_epi16(low, high));
#else
    for (int i = 0; i < LANES; i++) to[i] = (uint8_t)up[i];
#endif
}

// 16 x 16 bytes turned: byte j of from[i] becomes byte i of to + j * stride.
inline void transpose(const uint8_t* const from[LANES], uint8_t* to, size_t stride) {
#if defined(__SSE2__)
    __m128i a[LANES], b[LANES];
    for (int i = 0; i < LANES; i++) a[i] = _mm_loadu_si128((const __m128i*)from[i]);
    for (int stage = 0; stage < 4; stage++) {  // each interleaves row i with row i + 8
        for (int i = 0; i < 8; i++) {
            b[2 * i] = _mm_unpacklo_epi8(a[i], a[i + 8]);
            b[2 * i + 1] = _mm_unpackhi_epi8(a[i], a[i + 8]);
        }
        for (int i = 0; i < LANES; i++) a[i] = b[i];
    }
    for (int i = 0; i < LANES; i++) _mm_storeu_si128((__m128i*)(to + i * stride), a[i]);
#else
    for (int i = 0; i < LANES; i++)
        for (int j = 0; j < LANES; j++) to[j * stride + i] = from[i][j];
#endif
}

}  // namespace
}  // namespace feed
