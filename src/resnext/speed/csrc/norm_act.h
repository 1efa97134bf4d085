// The fused operator y = ReLU(BN(x) + residual) on NHWC memory: x is a matrix of `rows` pixels by `channels`.
//
// A call processes a range of rows that starts at a multiple of ROWS_ALIGNED, so that its elements start at a multiple
// of 16 in memory and in the bit mask. `Wide` is the type of the arithmetic: float for bf16 and float, double for
// double. Each channel is summed over rows separately, so sums do not depend on the vector width: every instruction set
// gives the same bits.
#pragma once
#include <cstdint>

namespace resnext {

constexpr int64_t ROWS_ALIGNED = 16;

// How a channel is normalised: (x - mean) * scale + shift, each vector of length `channels`.
template <typename Wide>
struct Affine {
  const Wide* mean;
  const Wide* scale;
  const Wide* shift;
};

// Where the sign of y comes from in the backward pass.
enum class Sign { NONE, FROM_X, FROM_MASK };  // no ReLU; recomputed; the bits that the forward pass kept

template <typename T, typename Wide>
struct Functions {
  // mean of each channel over the rows, and its sum of squared deviations from the mean
  void (*moments)(const T* x, int64_t rows, int64_t channels, double* mean, double* deviations);
  // y; if mask is given, also the signs of y as bits
  void (*forward)(const T* x, const T* residual, T* y, uint16_t* mask, int64_t rows, int64_t channels,
                  Affine<Wide> affine, bool act);
  // with d = gradient where y > 0, else 0: sums of d and of d * (x - mean); if masked is given, also d itself
  void (*gradient_sums)(const T* gradient, const T* x, const uint16_t* mask, T* masked, int64_t rows, int64_t channels,
                        Affine<Wide> affine, Sign sign, double* sums, double* products);
  // gradient of x: (d - offset - (x - mean) * slope) * scale
  void (*backward)(const T* gradient, const T* x, const uint16_t* mask, T* out, int64_t rows, int64_t channels,
                   Affine<Wide> affine, const Wide* offset, const Wide* slope, Sign sign);
};

struct BFloat16 {
  uint16_t bits;
};

struct Kernels {
  Functions<BFloat16, float> bf16;
  Functions<float, float> fp32;
  Functions<double, double> fp64;
  // combines the moments of blocks of `step` rows (`rows` in all) to mean and biased variance of channels begin..end
  void (*join)(const double* means, const double* deviations, int64_t blocks, int64_t channels, int64_t begin,
               int64_t end, int64_t step, int64_t rows, double* mean, double* variance);
};

// One table for each instruction set; norm_act_kernels.cpp is compiled once for each.
const Kernels* kernels_portable();
const Kernels* kernels_avx2();
const Kernels* kernels_avx512();

}  // namespace resnext
