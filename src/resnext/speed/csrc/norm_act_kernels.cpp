// The loops of norm_act.h, compiled once for each instruction set (-DISA=...). Vectors are compiler extensions (GCC and
// Clang) of 16 lanes on every machine. If the number of channels is not a multiple of 16, several rows are processed as
// one. No standard library templates are used: the linker keeps one copy of each, and that copy could be compiled for
// instructions which this machine does not have.
#include "norm_act.h"

#include <cstdlib>
#include <cstring>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace resnext {
namespace {

constexpr int LANES = 16;

template <typename Wide>
struct Lanes;
template <>
struct Lanes<float> {
  typedef float V __attribute__((vector_size(LANES * 4)));
  typedef int32_t Bits __attribute__((vector_size(LANES * 4)));
};
template <>
struct Lanes<double> {
  typedef double V __attribute__((vector_size(LANES * 8)));
  typedef int64_t Bits __attribute__((vector_size(LANES * 8)));
};

template <typename Wide>
using V = typename Lanes<Wide>::V;
template <typename Wide>
using Bits = typename Lanes<Wide>::Bits;
typedef uint32_t U32 __attribute__((vector_size(LANES * 4)));
typedef uint16_t U16 __attribute__((vector_size(LANES * 2)));

inline float widen(BFloat16 value) {
  uint32_t word = uint32_t(value.bits) << 16;
  float wide;
  std::memcpy(&wide, &word, 4);
  return wide;
}
inline float widen(float value) { return value; }
inline double widen(double value) { return value; }

// Round to nearest, ties to even; a NaN stays one.
inline void narrow(float value, BFloat16& out) {
  uint32_t word;
  std::memcpy(&word, &value, 4);
  out.bits = value != value ? 0x7fc0 : uint16_t((word + 0x7fff + ((word >> 16) & 1)) >> 16);
}
inline void narrow(float value, float& out) { out = value; }
inline void narrow(double value, double& out) { out = value; }

template <typename Wide>
inline V<Wide> load_wide(const Wide* from) {
  V<Wide> v;
  std::memcpy(&v, from, sizeof v);
  return v;
}
inline V<float> load(const float* from) { return load_wide(from); }
inline V<double> load(const double* from) { return load_wide(from); }
inline V<float> load(const BFloat16* from) {
#if defined(__AVX512F__)  // GCC converts in halves
  __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  return (V<float>)_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16);
#else
  U16 half;
  std::memcpy(&half, from, sizeof half);
  U32 word = __builtin_convertvector(half, U32) << 16;
  V<float> v;
  std::memcpy(&v, &word, sizeof v);
  return v;
#endif
}

template <typename Wide>
inline void store(V<Wide> v, Wide* to) {
  std::memcpy(to, &v, sizeof v);
}
inline void store(V<float> v, BFloat16* to) {
  U32 word;
  std::memcpy(&word, &v, sizeof v);
  U32 rounded = (word + 0x7fff + ((word >> 16) & 1)) >> 16;
#if defined(__AVX512F__)
  __m512i quiet = _mm512_mask_mov_epi32((__m512i)rounded, _mm512_cmp_ps_mask((__m512)v, (__m512)v, _CMP_UNORD_Q),
                                        _mm512_set1_epi32(0x7fc0));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtepi32_epi16(quiet));
#else
  Bits<float> nan = v != v;
  U32 unordered;
  std::memcpy(&unordered, &nan, sizeof nan);
  U16 half = __builtin_convertvector((rounded & ~unordered) | (unordered & 0x7fc0), U16);
  std::memcpy(to, &half, sizeof half);
#endif
}

// A mask of lanes: all ones or all zeros in each lane, or 16 bits on machines with mask registers.
template <typename Wide>
inline Bits<Wide> positive_lanes(V<Wide> v) {
  return !(v <= 0);  // a NaN passes, as in torch
}
template <typename Wide>
inline V<Wide> keep(V<Wide> v, Bits<Wide> chosen) {
  Bits<Wide> raw;
  std::memcpy(&raw, &v, sizeof v);
  raw &= chosen;
  std::memcpy(&v, &raw, sizeof v);
  return v;
}
template <typename Wide>
inline V<Wide> keep(V<Wide> v, uint16_t bits) {
  Bits<Wide> lane, all;
  for (int l = 0; l < LANES; ++l) lane[l] = int64_t(1) << l, all[l] = bits;
  return keep<Wide>(v, (all & lane) != 0);
}
template <typename B>
inline uint16_t pack(B chosen) {
  uint32_t bits = 0;
  for (int l = 0; l < LANES; ++l) bits |= uint32_t(chosen[l] & 1) << l;
  return uint16_t(bits);
}
inline Bits<double> positive(V<double> v) { return positive_lanes<double>(v); }
#if !defined(__AVX512F__)
inline Bits<float> positive(V<float> v) { return positive_lanes<float>(v); }
#endif
#if defined(__AVX512F__)
template <>
inline V<float> keep<float>(V<float> v, uint16_t bits) {
  return (V<float>)_mm512_maskz_mov_ps(bits, (__m512)v);
}
inline uint16_t positive(V<float> v) { return _mm512_cmp_ps_mask((__m512)v, _mm512_setzero_ps(), _CMP_NLE_UQ); }
inline uint16_t pack(uint16_t bits) { return bits; }
#elif defined(__AVX2__)
inline uint16_t pack(Bits<float> chosen) {
  __m256 v[2];
  std::memcpy(&v, &chosen, sizeof v);
  return uint16_t(_mm256_movemask_ps(v[0]) | (_mm256_movemask_ps(v[1]) << 8));
}
#endif

template <typename Wide>
struct Buffer {
  Wide* data;
  int64_t size;
  explicit Buffer(int64_t n) : data(static_cast<Wide*>(std::calloc(n + 1, sizeof(Wide)))), size(n) {
    if (data == nullptr) std::abort();
  }
  Buffer(const Buffer&) = delete;
  ~Buffer() { std::free(data); }
};

int64_t divisor(int64_t a, int64_t b) { return b ? divisor(b, a % b) : a; }

// Rows that are processed as one, so that vectors are full: `together` rows of `channels`, `width` elements.
struct Rows {
  int64_t together, width, whole, rest;  // whole: rows in full groups; rest: rows after them
  Rows(int64_t rows, int64_t channels)
      : together(LANES / divisor(channels, LANES)),
        width(together * channels),
        whole(rows / together),
        rest(rows % together) {}
};

// A vector of channels, repeated for the rows processed as one (not repeated if that is one row).
template <typename Wide>
struct Repeated {
  Buffer<Wide> own;
  const Wide* data;
  Repeated(const Wide* vector, int64_t channels, int64_t together)
      : own(together == 1 ? 0 : channels * together), data(together == 1 ? vector : own.data) {
    for (int64_t i = 0; i < own.size; i += channels)
      for (int64_t c = 0; c < channels; ++c) own.data[i + c] = vector[c];
  }
};

template <typename Wide>
struct RepeatedAffine {
  Repeated<Wide> mean, scale, shift;
  RepeatedAffine(Affine<Wide> a, int64_t channels, int64_t together)
      : mean(a.mean, channels, together), scale(a.scale, channels, together), shift(a.shift, channels, together) {}
};

// Reduces sums over the `width` elements to sums for each channel.
template <typename Wide>
void fold(const Buffer<Wide>& wide, int64_t channels, double* out) {
  for (int64_t c = 0; c < channels; ++c) out[c] = double(wide.data[c]);
  for (int64_t i = channels; i < wide.size; i += channels)
    for (int64_t c = 0; c < channels; ++c) out[c] += double(wide.data[i + c]);
}

// Adds `STEPS` groups of rows to the sums of x - pivot and of its squares.
template <int STEPS, typename T, typename Wide>
inline void add_moments(const T* x, int64_t width, const Wide* pivot, Wide* sums, Wide* squares) {
  for (int64_t i = 0; i < width; i += LANES) {
    V<Wide> p = load_wide(pivot + i), s = load_wide(sums + i), q = load_wide(squares + i);
    for (int k = 0; k < STEPS; ++k) {
      V<Wide> d = load(x + k * width + i) - p;
      s += d;
      q += d * d;
    }
    store(s, sums + i), store(q, squares + i);
  }
}

// As Functions::moments, around a given pivot for the rows processed as one.
template <typename T, typename Wide>
void moments_around(const T* x, const Rows& r, int64_t channels, const Wide* pivot, Wide* sums, Wide* squares) {
  int64_t g = 0;
  for (; g + 4 <= r.whole; g += 4) add_moments<4>(x + g * r.width, r.width, pivot, sums, squares);
  for (; g < r.whole; ++g) add_moments<1>(x + g * r.width, r.width, pivot, sums, squares);
  const T* tail = x + r.whole * r.width;
  for (int64_t e = 0; e < r.rest * channels; ++e) {
    Wide d = widen(tail[e]) - pivot[e];
    sums[e] += d;
    squares[e] += d * d;
  }
}

template <typename T, typename Wide>
void moments(const T* x, int64_t rows, int64_t channels, double* mean, double* deviations) {
  Rows r(rows, channels);
  Buffer<Wide> s(r.width), q(r.width), pivot(r.width);
  const int64_t few = rows < 8 ? rows : 8;  // their mean is near the block's, so sums of x - pivot lose no digits
  for (int64_t row = 0; row < few; ++row)
    for (int64_t c = 0; c < channels; ++c) pivot.data[c] += widen(x[row * channels + c]);
  for (int64_t c = 0; c < channels; ++c) pivot.data[c] /= Wide(few);
  for (int64_t i = channels; i < r.width; ++i) pivot.data[i] = pivot.data[i - channels];
  moments_around(x, r, channels, pivot.data, s.data, q.data);
  fold(s, channels, mean);
  fold(q, channels, deviations);
  for (int64_t c = 0; c < channels; ++c) {
    const double from_pivot = mean[c] / double(rows);
    deviations[c] -= from_pivot * mean[c];
    mean[c] = double(pivot.data[c]) + from_pivot;
  }
}

void join(const double* means, const double* deviations, int64_t blocks, int64_t channels, int64_t begin, int64_t end,
          int64_t step, int64_t rows, double* mean, double* variance) {
  for (int64_t c = begin; c < end; ++c) mean[c] = variance[c] = 0;
  for (int64_t b = 0; b < blocks; ++b) {
    const double count = double(rows - b * step < step ? rows - b * step : step) / double(rows);
    for (int64_t c = begin; c < end; ++c) mean[c] += means[b * channels + c] * count;
  }
  for (int64_t b = 0; b < blocks; ++b) {
    const double count = double(rows - b * step < step ? rows - b * step : step) / double(rows);
    for (int64_t c = begin; c < end; ++c) {
      const double apart = means[b * channels + c] - mean[c];
      variance[c] += deviations[b * channels + c] / double(rows) + count * apart * apart;
    }
  }
}

template <typename T, typename Wide>
void forward(const T* x, const T* residual, T* y, uint16_t* mask, int64_t rows, int64_t channels, Affine<Wide> affine,
             bool act) {
  Rows r(rows, channels);
  RepeatedAffine<Wide> a(affine, channels, r.together);
  for (int64_t g = 0; g < r.whole; ++g) {
    int64_t start = g * r.width;
    for (int64_t i = 0; i < r.width; i += LANES) {
      int64_t at = start + i;
      V<Wide> v = (load(x + at) - load_wide(a.mean.data + i)) * load_wide(a.scale.data + i) +
                  load_wide(a.shift.data + i);
      if (residual) v += load(residual + at);
      if (act) {
        auto chosen = positive(v);
        v = keep<Wide>(v, chosen);
        if (mask) mask[at / LANES] = pack(chosen);
      }
      store(v, y + at);
    }
  }
  int64_t tail = r.whole * r.width;
  uint16_t bits = 0;
  for (int64_t e = 0; e < r.rest * channels; ++e) {
    Wide v = (widen(x[tail + e]) - a.mean.data[e]) * a.scale.data[e] + a.shift.data[e];
    if (residual) v += widen(residual[tail + e]);
    bool passes = !(v <= 0);
    if (act && !passes) v = 0;
    narrow(v, y[tail + e]);
    bits |= uint16_t(passes) << (e % LANES);
    if (mask && (e % LANES == LANES - 1 || e == r.rest * channels - 1)) mask[(tail + e) / LANES] = bits, bits = 0;
  }
}

// The gradient after the ReLU's backward pass, at element `at` (index i within the rows processed as one).
template <Sign SIGN, typename T, typename Wide>
inline V<Wide> passed(const T* gradient, V<Wide> centred, const uint16_t* mask, int64_t at, int64_t i,
                      const RepeatedAffine<Wide>& a) {
  V<Wide> d = load(gradient + at);
  if constexpr (SIGN == Sign::FROM_X) {
    V<Wide> y = centred * load_wide(a.scale.data + i) + load_wide(a.shift.data + i);
    return keep<Wide>(d, positive(y));
  }
  if constexpr (SIGN == Sign::FROM_MASK) return keep<Wide>(d, mask[at / LANES]);
  return d;
}
template <Sign SIGN, typename T, typename Wide>
inline Wide passed_one(const T* gradient, Wide centred, const uint16_t* mask, int64_t at, int64_t i,
                       const RepeatedAffine<Wide>& a) {
  Wide d = widen(gradient[at]);
  if constexpr (SIGN == Sign::FROM_X) return centred * a.scale.data[i] + a.shift.data[i] <= 0 ? Wide(0) : d;
  if constexpr (SIGN == Sign::FROM_MASK) return (mask[at / LANES] >> (at % LANES)) & 1 ? d : Wide(0);
  return d;
}

// Adds `STEPS` groups of rows, from group g on.
template <int STEPS, Sign SIGN, typename T, typename Wide>
inline void add_gradient_sums(const T* gradient, const T* x, const uint16_t* mask, T* masked, int64_t start,
                              int64_t width, const RepeatedAffine<Wide>& a, Wide* sums, Wide* products) {
  for (int64_t i = 0; i < width; i += LANES) {
    V<Wide> mean = load_wide(a.mean.data + i), s = load_wide(sums + i), q = load_wide(products + i);
    for (int k = 0; k < STEPS; ++k) {
      const int64_t at = start + k * width + i;
      V<Wide> centred = load(x + at) - mean;
      V<Wide> d = passed<SIGN, T, Wide>(gradient, centred, mask, at, i, a);
      s += d;
      q += d * centred;
      if (masked) store(d, masked + at);
    }
    store(s, sums + i), store(q, products + i);
  }
}

template <Sign SIGN, typename T, typename Wide>
void gradient_sums_signed(const T* gradient, const T* x, const uint16_t* mask, T* masked, int64_t rows,
                          int64_t channels, Affine<Wide> affine, double* sums, double* products) {
  Rows r(rows, channels);
  RepeatedAffine<Wide> a(affine, channels, r.together);
  Buffer<Wide> s(r.width), q(r.width);
  int64_t g = 0;
  for (; g + 4 <= r.whole; g += 4)
    add_gradient_sums<4, SIGN>(gradient, x, mask, masked, g * r.width, r.width, a, s.data, q.data);
  for (; g < r.whole; ++g)
    add_gradient_sums<1, SIGN>(gradient, x, mask, masked, g * r.width, r.width, a, s.data, q.data);
  int64_t tail = r.whole * r.width;
  for (int64_t e = 0; e < r.rest * channels; ++e) {
    Wide centred = widen(x[tail + e]) - a.mean.data[e];
    Wide d = passed_one<SIGN, T, Wide>(gradient, centred, mask, tail + e, e, a);
    s.data[e] += d;
    q.data[e] += d * centred;
    if (masked) narrow(d, masked[tail + e]);
  }
  fold(s, channels, sums);
  fold(q, channels, products);
}

template <typename T, typename Wide>
void gradient_sums(const T* gradient, const T* x, const uint16_t* mask, T* masked, int64_t rows, int64_t channels,
                   Affine<Wide> affine, Sign sign, double* sums, double* products) {
  auto f = sign == Sign::NONE     ? gradient_sums_signed<Sign::NONE, T, Wide>
           : sign == Sign::FROM_X ? gradient_sums_signed<Sign::FROM_X, T, Wide>
                                  : gradient_sums_signed<Sign::FROM_MASK, T, Wide>;
  f(gradient, x, mask, masked, rows, channels, affine, sums, products);
}

template <Sign SIGN, typename T, typename Wide>
void backward_signed(const T* gradient, const T* x, const uint16_t* mask, T* out, int64_t rows, int64_t channels,
                     Affine<Wide> affine, const Wide* offset, const Wide* slope) {
  Rows r(rows, channels);
  RepeatedAffine<Wide> a(affine, channels, r.together);
  Repeated<Wide> o(offset, channels, r.together), l(slope, channels, r.together);
  for (int64_t g = 0; g < r.whole; ++g)
    for (int64_t i = 0; i < r.width; i += LANES) {
      int64_t at = g * r.width + i;
      V<Wide> centred = load(x + at) - load_wide(a.mean.data + i);
      V<Wide> d = passed<SIGN, T, Wide>(gradient, centred, mask, at, i, a);
      d = (d - load_wide(o.data + i) - centred * load_wide(l.data + i)) * load_wide(a.scale.data + i);
      store(d, out + at);
    }
  int64_t tail = r.whole * r.width;
  for (int64_t e = 0; e < r.rest * channels; ++e) {
    Wide centred = widen(x[tail + e]) - a.mean.data[e];
    Wide d = passed_one<SIGN, T, Wide>(gradient, centred, mask, tail + e, e, a);
    narrow((d - o.data[e] - centred * l.data[e]) * a.scale.data[e], out[tail + e]);
  }
}

template <typename T, typename Wide>
void backward(const T* gradient, const T* x, const uint16_t* mask, T* out, int64_t rows, int64_t channels,
              Affine<Wide> affine, const Wide* offset, const Wide* slope, Sign sign) {
  auto f = sign == Sign::NONE     ? backward_signed<Sign::NONE, T, Wide>
           : sign == Sign::FROM_X ? backward_signed<Sign::FROM_X, T, Wide>
                                  : backward_signed<Sign::FROM_MASK, T, Wide>;
  f(gradient, x, mask, out, rows, channels, affine, offset, slope);
}

template <typename T, typename Wide>
constexpr Functions<T, Wide> functions() {
  return {moments<T, Wide>, forward<T, Wide>, gradient_sums<T, Wide>, backward<T, Wide>};
}

constexpr Kernels table = {functions<BFloat16, float>(), functions<float, float>(), functions<double, double>(), join};

}  // namespace

#define NAME_OF(isa) kernels_##isa
#define NAME(isa) NAME_OF(isa)
const Kernels* NAME(ISA)() { return &table; }

}  // namespace resnext
