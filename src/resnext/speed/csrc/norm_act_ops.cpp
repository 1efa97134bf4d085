// torch.ops.resnext: the fused operator with its gradient, over norm_act.h.
//
//   norm_act(x, residual?, weight, bias, eps, act) -> (y, mean, variance)     differentiable; statistics of the batch
//   norm_act_forward / norm_act_backward                                      its forward and backward pass
//   norm_act_apply(x, residual?, weight, bias, mean, variance, eps, act) -> y recomputes y from saved statistics
//
// x, residual, y: [B, C, H, W] in channels_last, bf16, fp32 or fp64; weight, bias: [C], fp32 (fp64 with fp64);
// mean, variance: [C] in fp64, the variance biased.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <cmath>
#include <cstdlib>
#include <string>
#include <tuple>
#include <vector>

#include "norm_act.h"

namespace resnext {
namespace {

using at::Tensor;
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
    case at::kBFloat16: return f(BFloat16{}, float{});
    case at::kFloat: return f(float{}, float{});
    case at::kDouble: return f(double{}, double{});
    default: TORCH_CHECK(false, "norm_act takes bf16, fp32 or fp64, not ", x.scalar_type());
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
    at::parallel_for(0, blocks, 1, [&](int64_t begin, int64_t end) {
      for (int64_t b = begin; b < end; ++b) f(b, b * step * channels, std::min(step, rows - b * step));
    });
  }
};

void check(const Tensor& x, const OptionalTensor& residual, const Tensor& weight, const Tensor& bias) {
  TORCH_CHECK(x.dim() == 4 && x.numel() > 0 && x.is_contiguous(at::MemoryFormat::ChannelsLast),
              "norm_act takes images [B, C, H, W] in channels_last, not ", x.sizes());
  TORCH_CHECK(!residual || (residual->sizes() == x.sizes() && residual->scalar_type() == x.scalar_type() &&
                            residual->is_contiguous(at::MemoryFormat::ChannelsLast)),
              "norm_act takes a residual of the same shape, type and layout as x");
  auto wide = x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  for (const Tensor& v : {weight, bias})
    TORCH_CHECK(v.scalar_type() == wide && v.numel() == x.size(1) && v.is_contiguous(),
                "norm_act takes ", wide, " weight and bias of ", x.size(1), " channels");
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
  at::parallel_for(0, p.channels, 256, [&](int64_t begin, int64_t end) {
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
  auto wide = x.options().dtype(at::kDouble).memory_format(std::nullopt);
  Tensor mean = at::empty({x.size(1)}, wide), variance = at::empty({x.size(1)}, wide), y = at::empty_like(x);
  const bool keeps = act && residual.has_value();
  Tensor mask = at::empty({keeps ? (x.numel() + 15) / 16 : 0}, x.options().dtype(at::kShort).memory_format(std::nullopt));
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
  Tensor y = at::empty_like(x);
  by_type(x, [&](auto t, auto w) {
    using Wide = decltype(w);
    apply<decltype(t), Wide>(x, residual, Channels<Wide>(weight, bias, mean, variance, eps), y, nullptr, act);
  });
  return y;
}

// Gradients of x, residual, weight and bias. Without `mask` the sign of y is recomputed from x.
std::tuple<Tensor, Tensor, Tensor, Tensor> norm_act_backward(const Tensor& gradient, const Tensor& x,
                                                             const Tensor& weight, const Tensor& bias,
                                                             const Tensor& mean, const Tensor& variance,
                                                             const Tensor& mask, double eps, bool act,
                                                             bool has_residual) {
  check(x, gradient, weight, bias);
  Tensor dx = at::empty_like(x), dweight = at::empty_like(weight), dbias = at::empty_like(bias);
  Tensor dresidual = has_residual && act ? at::empty_like(x) : has_residual ? gradient : at::empty({0}, x.options().memory_format(std::nullopt));
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

using ForwardOp = std::tuple<Tensor, Tensor, Tensor, Tensor>(const Tensor&, const OptionalTensor&, const Tensor&,
                                                             const Tensor&, double, bool);
using BackwardOp = std::tuple<Tensor, Tensor, Tensor, Tensor>(const Tensor&, const Tensor&, const Tensor&,
                                                              const Tensor&, const Tensor&, const Tensor&,
                                                              const Tensor&, double, bool, bool);

template <typename Op>
auto op(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Op>();
}

struct NormAct : public torch::autograd::Function<NormAct> {
  static torch::autograd::variable_list forward(torch::autograd::AutogradContext* ctx, const Tensor& x,
                                                const OptionalTensor& residual, const Tensor& weight,
                                                const Tensor& bias, double eps, bool act) {
    at::AutoDispatchBelowADInplaceOrView below;
    static auto forward_op = op<ForwardOp>("resnext::norm_act_forward");
    auto [y, mean, variance, mask] = forward_op.call(x, residual, weight, bias, eps, act);
    ctx->save_for_backward({x, weight, bias, mean, variance, mask});
    ctx->saved_data["eps"] = eps;
    ctx->saved_data["act"] = act;
    ctx->saved_data["residual"] = residual.has_value();
    ctx->mark_non_differentiable({mean, variance});
    return {y, mean, variance};
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 torch::autograd::variable_list gradients) {
    TORCH_CHECK(!at::GradMode::is_enabled(), "norm_act has no second derivative; RESNEXT_FAST=0 computes without it");
    auto saved = ctx->get_saved_variables();
    const bool has_residual = ctx->saved_data["residual"].toBool();
    static auto backward_op = op<BackwardOp>("resnext::norm_act_backward");
    Tensor gradient = gradients[0].to(saved[0].scalar_type()).contiguous(at::MemoryFormat::ChannelsLast);
    auto [dx, dresidual, dweight, dbias] =
        backward_op.call(gradient, saved[0], saved[1], saved[2], saved[3], saved[4], saved[5],
                         ctx->saved_data["eps"].toDouble(), ctx->saved_data["act"].toBool(), has_residual);
    return {dx, has_residual ? dresidual : Tensor(), dweight, dbias, Tensor(), Tensor()};
  }
};

std::tuple<Tensor, Tensor, Tensor> norm_act_autograd(const Tensor& x, const OptionalTensor& residual,
                                                     const Tensor& weight, const Tensor& bias, double eps, bool act) {
  auto out = NormAct::apply(x, residual, weight, bias, eps, act);
  return {out[0], out[1], out[2]};
}

std::tuple<Tensor, Tensor, Tensor> norm_act_plain(const Tensor& x, const OptionalTensor& residual,
                                                  const Tensor& weight, const Tensor& bias, double eps, bool act) {
  auto [y, mean, variance, mask] = norm_act_forward(x, residual, weight, bias, eps, act);
  return {y, mean, variance};
}

}  // namespace

TORCH_LIBRARY(resnext, m) {
  m.def("norm_act(Tensor x, Tensor? residual, Tensor weight, Tensor bias, float eps, bool act)"
        " -> (Tensor, Tensor, Tensor)");
  m.def("norm_act_forward(Tensor x, Tensor? residual, Tensor weight, Tensor bias, float eps, bool act)"
        " -> (Tensor, Tensor, Tensor, Tensor)");
  m.def("norm_act_apply(Tensor x, Tensor? residual, Tensor weight, Tensor bias, Tensor mean, Tensor variance,"
        " float eps, bool act) -> Tensor");
  m.def("norm_act_backward(Tensor gradient, Tensor x, Tensor weight, Tensor bias, Tensor mean, Tensor variance,"
        " Tensor mask, float eps, bool act, bool has_residual) -> (Tensor, Tensor, Tensor, Tensor)");
  m.def("isa() -> str", isa);
}

TORCH_LIBRARY_IMPL(resnext, CPU, m) {
  m.impl("norm_act", norm_act_plain);
  m.impl("norm_act_forward", norm_act_forward);
  m.impl("norm_act_apply", norm_act_apply);
  m.impl("norm_act_backward", norm_act_backward);
}

TORCH_LIBRARY_IMPL(resnext, Autograd, m) { m.impl("norm_act", norm_act_autograd); }

}  // namespace resnext
