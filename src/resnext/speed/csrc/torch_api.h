// What norm_act_ops.cpp needs of PyTorch: from its stable ABI where TORCH_TARGET_VERSION is given, so that one library
// serves that release and all later ones, else from ATen.
#pragma once
#include <cstdint>
#include <stdexcept>
#include <string>

namespace resnext {

// Throws a RuntimeError for Python. Strings are joined without streams, which would need a newer C++ library than other
// parts of this code do.
[[noreturn]] inline void raise_error(const std::string& message) { throw std::runtime_error(message); }

}  // namespace resnext

#define RESNEXT_CHECK(condition, message) \
  if (!(condition)) { resnext::raise_error(message); }

#if defined(TORCH_TARGET_VERSION)
#if __has_include(<sys/single_threaded.h>)
// Shared pointers read this variable of glibc 2.32. With this one (several threads may run) older releases serve too.
extern "C" {
__attribute__((visibility("hidden"))) char __libc_single_threaded = 0;
}
#endif
#include <torch/csrc/stable/macros.h>
#undef STD_TORCH_CHECK
#define STD_TORCH_CHECK(condition, ...) RESNEXT_CHECK(condition, "PyTorch: " #condition " does not hold")
#undef STABLE_TORCH_ERROR_CODE_CHECK
#define STABLE_TORCH_ERROR_CODE_CHECK(call) RESNEXT_CHECK((call) == 0, "PyTorch: " #call " failed")
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#define RESNEXT_LIBRARY STABLE_TORCH_LIBRARY
#define RESNEXT_LIBRARY_IMPL STABLE_TORCH_LIBRARY_IMPL
#define RESNEXT_OPERATOR(function) TORCH_BOX(&function)

namespace resnext {
using torch::headeronly::ScalarType;
using torch::stable::parallel_for;
using torch::stable::Tensor;

// torch::stable::empty does the same, but looks up aten::empty by name: a microsecond for each tensor.
inline Tensor make_strided(int64_t dim, const int64_t* sizes, const int64_t* strides, ScalarType type) {
  const auto number = torch::stable::detail::to<int32_t>(torch::stable::detail::from(type));
  AtenTensorHandle made = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(
      aoti_torch_empty_strided(dim, sizes, strides, number, aoti_torch_device_type_cpu(), 0, &made));
  return Tensor(made);
}
inline Tensor make_like(const Tensor& x) {
  return make_strided(x.dim(), x.sizes().data(), x.strides().data(), x.scalar_type());
}
inline Tensor make_vector(int64_t length, ScalarType type) {
  const int64_t stride = 1;
  return make_strided(1, &length, &stride, type);
}
}  // namespace resnext

#else
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#define RESNEXT_LIBRARY TORCH_LIBRARY
#define RESNEXT_LIBRARY_IMPL TORCH_LIBRARY_IMPL
#define RESNEXT_OPERATOR(function) function

namespace resnext {
using at::parallel_for;
using at::ScalarType;
using at::Tensor;

inline Tensor make_like(const Tensor& x) { return at::empty_like(x); }
inline Tensor make_vector(int64_t length, ScalarType type) { return at::empty({length}, at::TensorOptions(type)); }
}  // namespace resnext
#endif
