// The fused operator y = ReLU(BN(x) + residual) on NHWC memory: x is a matrix of `rows` pixels by `channels`.
//
// A call works on a range of rows that starts at a multiple of ROWS_ALIGNED, so that its elements start at a multiple
// of 16 in memory and in the bit mask. `Wide` is what is computed in: float for bf16 and float, double for double.
// Sums run along rows, each channel by itself, so they do not depend on the width of the vectors: every instruction
// set gives the same bits.
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
  // a channel's mean over the rows, and its sum of squared deviations from it
  void (*moments)(const T* x, int64_t rows, int64_t channels, double* mean, double* deviations);
  // y, and the signs of y as bits where mask is given
  void (*forward)(const T* x, const T* residual, T* y, uint16_t* mask, int64_t rows, int64_t channels,
                  Affine<Wide> affine, bool act);
  // with d = gradient where y > 0: sums of d and of d * (x - mean); d itself where masked is given
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
  // mean and (biased) variance of channels begin to end, from those of blocks of `step` rows, `rows` in all
  void (*join)(const double* means, const double* deviations, int64_t blocks, int64_t channels, int64_t begin,
               int64_t end, int64_t step, int64_t rows, double* mean, double* variance);
};

// One table an instruction set; norm_act_kernels.cpp is compiled once for each.
const Kernels* kernels_portable();
const Kernels* kernels_avx2();
const Kernels* kernels_avx512();

}  // namespace resnext
