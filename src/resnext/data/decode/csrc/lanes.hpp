// Vectors of sixteen integers, in as many registers as the instruction set needs.
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
constexpr int WIDTH = 16;
#elif defined(__AVX2__)
constexpr int WIDTH = 8;
#else
constexpr int WIDTH = 4;
#endif
constexpr int PARTS = LANES / WIDTH;

typedef int32_t Ints __attribute__((vector_size(WIDTH * 4)));
typedef float Floats __attribute__((vector_size(WIDTH * 4)));

template <typename Part, typename Number>
inline Part load(const Number* from) {
    Part part;
    std::memcpy(&part, from, sizeof part);
    return part;
}

template <typename Part>
inline void store(void* to, const Part& part) {
    std::memcpy(to, &part, sizeof part);
}

inline Ints widened(const uint8_t* from) {
#if defined(__AVX512F__)
    return (Ints)_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)from));
#elif defined(__AVX2__)
    return (Ints)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)from));
#elif defined(__SSE2__)
    const __m128i zero = _mm_setzero_si128(), words = _mm_unpacklo_epi8(_mm_cvtsi32_si128(load<int>(from)), zero);
    return (Ints)_mm_unpacklo_epi16(words, zero);
#else
    Ints ints;
    for (int i = 0; i < WIDTH; i++) ints[i] = from[i];
    return ints;
#endif
}

// Sums kept in registers while terms are added. They start at a half, for rounding.
struct Sums {
    Ints parts[PARTS];

    explicit Sums(int start) {
        for (int i = 0; i < PARTS; i++) parts[i] = start - Ints{};
    }

    void add(int weight, const int32_t* from) {
        for (int i = 0; i < PARTS; i++) parts[i] += weight * load<Ints>(from + i * WIDTH);
    }

    void add_bytes(int weight, const uint8_t* from) {
        for (int i = 0; i < PARTS; i++) parts[i] += weight * widened(from + i * WIDTH);
    }

    // Shifted down by FIXED_BITS and clamped to 0..255.
    void write(uint8_t* to) const {
        Ints p[PARTS];
        for (int i = 0; i < PARTS; i++) p[i] = parts[i] >> FIXED_BITS;
#if defined(__AVX512F__)
        const __m512i positive = _mm512_max_epi32((__m512i)p[0], _mm512_setzero_si512());
        _mm_storeu_si128((__m128i*)to, _mm512_cvtusepi32_epi8(positive));
#elif defined(__AVX2__)
        const __m256i words = _mm256_packs_epi32((__m256i)p[0], (__m256i)p[1]);
        const __m256i sorted = _mm256_permute4x64_epi64(words, 0xD8);
        const __m128i low = _mm256_castsi256_si128(sorted), high = _mm256_extracti128_si256(sorted, 1);
        _mm_storeu_si128((__m128i*)to, _mm_packus_epi16(low, high));
#elif defined(__SSE2__)
        const __m128i low = _mm_packs_epi32((__m128i)p[0], (__m128i)p[1]);
        const __m128i high = _mm_packs_epi32((__m128i)p[2], (__m128i)p[3]);
        _mm_storeu_si128((__m128i*)to, _mm_packus_epi16(low, high));
#else
        for (int i = 0; i < LANES; i++) to[i] = (uint8_t)std::clamp<int>(p[i / WIDTH][i % WIDTH], 0, 255);
#endif
    }
};

// Transposes 16 x 16 bytes: byte j of from[i] becomes byte i of to + j * LANES.
inline void transpose(const uint8_t* const from[LANES], uint8_t* to) {
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
    for (int i = 0; i < LANES; i++) _mm_storeu_si128((__m128i*)(to + i * LANES), a[i]);
#else
    for (int i = 0; i < LANES; i++)
        for (int j = 0; j < LANES; j++) to[j * LANES + i] = from[i][j];
#endif
}

}  // namespace
}  // namespace feed
