// torch.ops.resnext: the fused operator, over norm_act.h; speed/kernels.py makes it differentiable.
//
//   norm_act_forward / norm_act_backward                                      its forward and backward pass
//   norm_act_apply(x, residual?, weight, bias, mean, variance, eps, act) -> y recomputes y from saved statistics
//
// x, residual, y: [B, C, H, W] in channels_last, bf16, fp32 or fp64; weight, bias: [C], fp32 (fp64 with fp64);
// mean, variance: [C] in fp64, the variance biased.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "norm_act.h"
#include "torch_api.h"

namespace resnext {
namespace {

using OptionalTensor = std::optional<Tensor>;

const Kernels* best_kernels() {
  const char* said = std::getenv("RESNEXT_ISA");
  const std::string cap = said ? said : "avx512";
#if defined(__x86_64__)
  if (cap == "avx512" && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"))
    return kernels_avx512();
  if (cap != "portable" && __builtin_cpu_supports("avx2")) return kernels_avx2();
#endif
  return kernels_portable();
}

const Kernels& kernels() {
  static const Kernels* chosen = best_kernels();
  return *chosen;
}

std::string isa() {
#if defined(__x86_64__)
  if (&kernels() == kernels_avx512()) return "avx512";
  if (&kernels() == kernels_avx2()) return "avx2";
#endif
  return "portable";
}

template <typename T>
const auto& functions();
template <>
const auto& functions<BFloat16>() { return kernels().bf16; }
template <>
const auto& functions<float>() { return kernels().fp32; }
template <>
const auto& functions<double>() { return kernels().fp64; }

// Calls f with a value of the kernels' element type.
template <typename F>
auto by_type(const Tensor& x, F f) {
  switch (x.scalar_type()) {
    case ScalarType::BFloat16: return f(BFloat16{}, float{});
    case ScalarType::Float: return f(float{}, float{});
    case ScalarType::Double: return f(double{}, double{});
    default: raise_error("norm_act takes bf16, fp32 or fp64");
  }
}

template <typename T>
T* data(const Tensor& x) { return static_cast<T*>(x.data_ptr()); }
template <typename T>
T* data(const OptionalTensor& x) { return x ? data<T>(*x) : nullptr; }

// The pixels of an NHWC tensor, split into blocks. Sums are computed per block and added in order, so results do not
// depend on the number of threads.
struct Pixels {
  static constexpr int64_t BLOCK = 32768;  // elements, so that a block stays in cache between two passes
  int64_t rows, channels, step, blocks;
  explicit Pixels(const Tensor& x) : rows(x.numel() / x.size(1)), channels(x.size(1)) {
    step = std::max<int64_t>(BLOCK / channels / ROWS_ALIGNED, 4) * ROWS_ALIGNED;
    blocks = (rows + step - 1) / step;
  }
  template <typename F>
  void each(F f) const {  // f(block, first element, rows)
    parallel_for(0, blocks, 1, [&](int64_t begin, int64_t end) {
      for (int64_t b = begin; b < end; ++b) f(b, b * step * channels, std::min(step, rows - b * step));
    });
  }
};

// Whether the elements of images [B, C, H, W] are in the order B, H, W, C, without gaps.
bool is_channels_last(const Tensor& x) {
  int64_t expected = 1;
  for (int d : {1, 3, 2, 0}) {
    if (x.size(d) != 1 && x.stride(d) != expected) return false;
    expected *= x.size(d);
  }
  return true;
}

bool is_like(const Tensor& a, const Tensor& b) {
  if (a.scalar_type() != b.scalar_type() || a.dim() != b.dim()) return false;
  for (int d = 0; d < b.dim(); ++d)
    if (a.size(d) != b.size(d)) return false;
  return is_channels_last(a);
}

void check(const Tensor& x, const OptionalTensor& residual, const Tensor& weight, const Tensor& bias) {
  RESNEXT_CHECK(x.dim() == 4 && x.numel() > 0 && is_channels_last(x),
                "norm_act takes images [B, C, H, W] in channels_last");
  RESNEXT_CHECK(!residual || is_like(*residual, x),
                "norm_act takes a residual of the same shape, type and layout as x");
  const auto wide = x.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  for (const Tensor* v : {&weight, &bias})
    RESNEXT_CHECK(v->scalar_type() == wide && v->numel() == x.size(1) && v->is_contiguous(),
                  std::string("norm_act takes ") + (wide == ScalarType::Double ? "fp64" : "fp32") +
                      " weight and bias of " + std::to_string(x.size(1)) + " channels");
}

// The values that the kernels need for each channel. The rounding error of the mean goes into the shift, so that a mean
// far larger than the deviation loses no digits.
template <typename Wide>
struct Channels {
  std::vector<Wide> mean, scale, shift;
  Channels(const Tensor& weight, const Tensor& bias, const Tensor& mean64, const Tensor& variance, double eps) {
    const int64_t n = weight.numel();
    mean.resize(n), scale.resize(n), shift.resize(n);
    for (int64_t c = 0; c < n; ++c) {
      const double m = data<double>(mean64)[c];
      const double s = double(data<Wide>(weight)[c]) / std::sqrt(data<double>(variance)[c] + eps);
      mean[c] = Wide(m), scale[c] = Wide(s);
      shift[c] = Wide(double(data<Wide>(bias)[c]) - (m - double(mean[c])) * s);
    }
  }
  Affine<Wide> affine() const { return {mean.data(), scale.data(), shift.data()}; }
};

template <typename T>
void statistics(const Tensor& x, double* mean, double* variance) {
  const Pixels p(x);
  std::vector<double> means(p.blocks * p.channels), deviations(p.blocks * p.channels);
  p.each([&](int64_t b, int64_t at, int64_t rows) {
    functions<T>().moments(data<T>(x) + at, rows, p.channels, &means[b * p.channels], &deviations[b * p.channels]);
  });
  parallel_for(0, p.channels, 256, [&](int64_t begin, int64_t end) {
    kernels().join(means.data(), deviations.data(), p.blocks, p.channels, begin, end, p.step, p.rows, mean, variance);
  });
}

template <typename T, typename Wide>
void apply(const Tensor& x, const OptionalTensor& residual, const Channels<Wide>& channels, Tensor& y, uint16_t* mask,
           bool act) {
  const Pixels p(x);
  p.each([&](int64_t, int64_t at, int64_t rows) {
    functions<T>().forward(data<T>(x) + at, residual ? data<T>(residual) + at : nullptr, data<T>(y) + at,
                           mask ? mask + at / 16 : nullptr, rows, p.channels, channels.affine(), act);
  });
}

std::tuple<Tensor, Tensor, Tensor, Tensor> norm_act_forward(const Tensor& x, const OptionalTensor& residual,
                                                            const Tensor& weight, const Tensor& bias, double eps,
                                                            bool act) {
  check(x, residual, weight, bias);
  Tensor mean = make_vector(x.size(1), ScalarType::Double), variance = make_vector(x.size(1), ScalarType::Double);
  Tensor y = make_like(x);
  const bool keeps = act && residual.has_value();
  Tensor mask = make_vector(keeps ? (x.numel() + 15) / 16 : 0, ScalarType::Short);
  by_type(x, [&](auto t, auto w) {
    using T = decltype(t);
    using Wide = decltype(w);
    statistics<T>(x, data<double>(mean), data<double>(variance));
    apply<T, Wide>(x, residual, Channels<Wide>(weight, bias, mean, variance, eps), y,
                   keeps ? data<uint16_t>(mask) : nullptr, act);
  });
  return {y, mean, variance, mask};
}

Tensor norm_act_apply(const Tensor& x, const OptionalTensor& residual, const Tensor& weight, const Tensor& bias,
                      const Tensor& mean, const Tensor& variance, double eps, bool act) {
  check(x, residual, weight, bias);
  Tensor y = make_like(x);
  by_type(x, [&](auto t, auto w) {
    using Wide = decltype(w);
    apply<decltype(t), Wide>(x, residual, Channels<Wide>(weight, bias, mean, variance, eps), y, nullptr, act);
  });
  return y;
}

// Gradients of x, residual, weight and bias. Without `mask` the sign of y is recomputed from x. The gradient of the
// residual is empty without a ReLU, where it is `gradient`, and without a residual.
std::tuple<Tensor, Tensor, Tensor, Tensor> norm_act_backward(const Tensor& gradient, const Tensor& x,
                                                             const Tensor& weight, const Tensor& bias,
                                                             const Tensor& mean, const Tensor& variance,
                                                             const Tensor& mask, double eps, bool act,
                                                             bool has_residual) {
  check(x, gradient, weight, bias);
  Tensor dx = make_like(x), dweight = make_like(weight), dbias = make_like(bias);
  Tensor dresidual = has_residual && act ? make_like(x) : make_vector(0, x.scalar_type());
  const Sign sign = !act ? Sign::NONE : has_residual ? Sign::FROM_MASK : Sign::FROM_X;
  by_type(x, [&](auto t, auto w) {
    using T = decltype(t);
    using Wide = decltype(w);
    const Pixels p(x);
    const int64_t n = p.channels;
    const Channels<Wide> channels(weight, bias, mean, variance, eps);
    std::vector<double> sums(p.blocks * n), products(p.blocks * n);
    T* masked = sign == Sign::FROM_MASK ? data<T>(dresidual) : nullptr;
    auto bits = [&](int64_t at) { return sign == Sign::FROM_MASK ? data<uint16_t>(mask) + at / 16 : nullptr; };
    p.each([&](int64_t b, int64_t at, int64_t rows) {
      functions<T>().gradient_sums(data<T>(gradient) + at, data<T>(x) + at, bits(at), masked ? masked + at : nullptr,
                                   rows, n, channels.affine(), sign, &sums[b * n], &products[b * n]);
    });
    for (int64_t b = 1; b < p.blocks; ++b)
      for (int64_t c = 0; c < n; ++c) sums[c] += sums[b * n + c], products[c] += products[b * n + c];
    std::vector<Wide> offset(n), slope(n);
    for (int64_t c = 0; c < n; ++c) {
      const double m = data<double>(mean)[c], precision = 1 / (data<double>(variance)[c] + eps);
      const double product = products[c] - (m - double(channels.mean[c])) * sums[c];  // with the whole mean
      const double slope_c = product * precision / double(p.rows);
      slope[c] = Wide(slope_c);
      offset[c] = Wide(sums[c] / double(p.rows) - (m - double(channels.mean[c])) * slope_c);
      data<Wide>(dweight)[c] = Wide(product * std::sqrt(precision));
      data<Wide>(dbias)[c] = Wide(sums[c]);
    }
    const T* passed = masked ? masked : data<T>(gradient);  // the first pass has masked it already
    const Sign left = masked ? Sign::NONE : sign;
    p.each([&](int64_t, int64_t at, int64_t rows) {
      functions<T>().backward(passed + at, data<T>(x) + at, nullptr, data<T>(dx) + at, rows, n, channels.affine(),
                              offset.data(), slope.data(), left);
    });
  });
  return {dx, dresidual, dweight, dbias};
}

}  // namespace

RESNEXT_LIBRARY(resnext, m) {
  m.def("norm_act_forward(Tensor x, Tensor? residual, Tensor weight, Tensor bias, float eps, bool act)"
        " -> (Tensor, Tensor, Tensor, Tensor)");
  m.def("norm_act_apply(Tensor x, Tensor? residual, Tensor weight, Tensor bias, Tensor mean, Tensor variance,"
        " float eps, bool act) -> Tensor");
  m.def("norm_act_backward(Tensor gradient, Tensor x, Tensor weight, Tensor bias, Tensor mean, Tensor variance,"
        " Tensor mask, float eps, bool act, bool has_residual) -> (Tensor, Tensor, Tensor, Tensor)");
  m.def("isa() -> str");
}

RESNEXT_LIBRARY_IMPL(resnext, CPU, m) {
  m.impl("norm_act_forward", RESNEXT_OPERATOR(norm_act_forward));
  m.impl("norm_act_apply", RESNEXT_OPERATOR(norm_act_apply));
  m.impl("norm_act_backward", RESNEXT_OPERATOR(norm_act_backward));
}

RESNEXT_LIBRARY_IMPL(resnext, CompositeExplicitAutograd, m) { m.impl("isa", RESNEXT_OPERATOR(isa)); }

}  // namespace resnext
