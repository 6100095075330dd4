// Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
//
// What sampling does at every position, on an x86 processor with AVX-512: matrix products of few rows, RMS norm, SwiGLU,
// attention of one query; and the lookup of codes. Compiled and called by cpu_kernels.py, which allocates and checks.
//
// A product of few rows is as fast as its weights can be read, and memory is fastest when read in one direction. So a
// weight (out, in) is stored in the order in which the product reads it, blocks of OUTPUTS outputs one after another:
// (out / OUTPUTS, in / DEPTH, OUTPUTS, DEPTH), DEPTH being the inputs that one instruction adds up.

#include <immintrin.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#if !defined(__AVX512F__) || !defined(__AVX512BW__) || !defined(__AVX512VL__) || !defined(__AVX512DQ__)
#error "needs AVX-512"
#endif

namespace {

constexpr long LANES = 16;             // fp32 numbers of a register
constexpr long VECTORS = 2;            // registers of outputs that are computed at a time,
constexpr long ROWS = 8;               // for up to so many rows of the input: the sums stay in registers
constexpr long OUTPUTS = VECTORS * LANES;
constexpr long CHUNK = 8 * ROWS;       // rows that one pass over the weight serves; they stay in the caches

struct bfloat16 {
  uint16_t bits;
};
struct float16 {
  uint16_t bits;
};

// ---- 16 numbers between memory and a register, computed with in fp32 ------------------------------------------------

inline __m512 load(const float *from) { return _mm512_loadu_ps(from); }
inline __m512 load(const bfloat16 *from) {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(from));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}
inline __m512 load(const float16 *from) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(from)));
}

inline void store(float *to, __m512 values) { _mm512_storeu_ps(to, values); }
inline void store(bfloat16 *to, __m512 values) { // to nearest, ties to even
  const __m512i bits = _mm512_castps_si512(values);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const __mmask16 nan = _mm512_cmp_ps_mask(values, values, _CMP_UNORD_Q);
  const __m512i high = _mm512_srli_epi32(_mm512_mask_mov_epi32(rounded, nan, _mm512_set1_epi32(0x7fc00000)), 16);
  _mm256_storeu_si256(reinterpret_cast<__m256i *>(to), _mm512_cvtepi32_epi16(high));
}
inline void store(float16 *to, __m512 values) {
  const __m256i bits = _mm512_cvtps_ph(values, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  _mm256_storeu_si256(reinterpret_cast<__m256i *>(to), bits);
}

/// e^x, within 2e-7 of it: 2^n by its exponent, the rest by the series. 0 below e^-110.
inline __m512 exp(__m512 x) {
  x = _mm512_max_ps(_mm512_set1_ps(-110), x); // in this order a NaN stays one
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), _MM_FROUND_TO_NEAREST_INT);
  __m512 rest = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
  rest = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), rest);
  __m512 sum = _mm512_set1_ps(1.f / 5040);
  for (float coefficient : {1.f / 720, 1.f / 120, 1.f / 24, 1.f / 6, 1.f / 2, 1.f, 1.f})
    sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(coefficient));
  return _mm512_scalef_ps(sum, n);
}

// ---- Products -------------------------------------------------------------------------------------------------------
//
// A kind of product says how weights are stored, what inputs must be, how many of them one instruction adds up for each
// output (DEPTH, together 32 bits of input), and in what type.

/// Weights widened to fp32 as they are read.
template <class Stored> struct Widened {
  using Weight = Stored;
  using Input = float;
  using Sum = __m512;
  static constexpr long DEPTH = 1;
  static __m512 read(const Weight *weight) { return load(weight); }
  static __m512 repeat(const Input *input) { return _mm512_set1_ps(*input); }
  static Sum add(Sum sum, __m512 weight, __m512 input) { return _mm512_fmadd_ps(weight, input, sum); }
};

inline __m512i repeat_32_bits(const void *from) {
  int32_t bits;
  std::memcpy(&bits, from, sizeof bits);
  return _mm512_set1_epi32(bits);
}

#ifdef __AVX512BF16__
/// bf16 times bf16, added up in fp32.
struct Bfloat16Pairs {
  using Weight = bfloat16;
  using Input = bfloat16;
  using Sum = __m512;
  static constexpr long DEPTH = 2;
  static __m512i read(const Weight *weight) { return _mm512_loadu_si512(weight); }
  static __m512i repeat(const Input *input) { return repeat_32_bits(input); }
  static Sum add(Sum sum, __m512i weight, __m512i input) {
    return _mm512_dpbf16_ps(sum, (__m512bh)weight, (__m512bh)input);
  }
};
using Bfloat16 = Bfloat16Pairs;
#else
using Bfloat16 = Widened<bfloat16>;
#endif

#ifdef __AVX512VNNI__
/// Signed weights times unsigned inputs, 8 bits both, added up exactly.
struct Int8 {
  using Weight = int8_t;
  using Input = uint8_t;
  using Sum = __m512i;
  static constexpr long DEPTH = 4;
  static __m512i read(const Weight *weight) { return _mm512_loadu_si512(weight); }
  static __m512i repeat(const Input *input) { return repeat_32_bits(input); }
  static Sum add(Sum sum, __m512i weight, __m512i input) { return _mm512_dpbusd_epi32(sum, input, weight); }
};
#endif

/// One block of outputs for `COUNT` rows of inputs. `finish(row, output, sums)` takes LANES sums at a time. The weights
/// `ahead` of those in use are fetched into the second cache.
template <class Kind, long COUNT, class Finish>
inline void multiply_block(const typename Kind::Input *inputs, const typename Kind::Weight *weight, long width,
                           long ahead, const Finish &finish) {
  typename Kind::Sum sums[COUNT][VECTORS] = {};
  for (long k = 0; k < width; k += Kind::DEPTH, weight += OUTPUTS * Kind::DEPTH) {
    decltype(Kind::read(weight)) factors[VECTORS];
#pragma GCC unroll 2
    for (long vector = 0; vector < VECTORS; ++vector) {
      factors[vector] = Kind::read(weight + vector * LANES * Kind::DEPTH);
      _mm_prefetch(weight + ahead + vector * LANES * Kind::DEPTH, _MM_HINT_T1);
    }
#pragma GCC unroll 12
    for (long row = 0; row < COUNT; ++row) {
      const auto input = Kind::repeat(inputs + row * width + k);
#pragma GCC unroll 2
      for (long vector = 0; vector < VECTORS; ++vector)
        sums[row][vector] = Kind::add(sums[row][vector], factors[vector], input);
    }
  }
#pragma GCC unroll 12
  for (long row = 0; row < COUNT; ++row)
#pragma GCC unroll 2
    for (long vector = 0; vector < VECTORS; ++vector)
      finish(row, vector * LANES, sums[row][vector]);
}

/// `multiply_block` for `count` rows, 1 to ROWS.
template <class Kind, class Finish, long COUNT = ROWS>
inline void multiply_block(long count, const typename Kind::Input *inputs, const typename Kind::Weight *weight,
                           long width, long ahead, const Finish &finish) {
  if constexpr (COUNT > 1)
    if (count < COUNT)
      return multiply_block<Kind, Finish, COUNT - 1>(count, inputs, weight, width, ahead, finish);
  multiply_block<Kind, COUNT>(inputs, weight, width, ahead, finish);
}

/// All products of `rows` inputs with a packed weight. `finish(row, output, sums)` takes LANES of them at a time.
template <class Kind, class Finish>
void multiply(const typename Kind::Input *inputs, const typename Kind::Weight *weight, long rows, long width,
              long num_outputs, int threads, const Finish &finish) {
  for (long chunk = 0; chunk < rows; chunk += CHUNK) {
    const long chunk_rows = std::min(rows - chunk, CHUNK);
    const long groups = (chunk_rows + ROWS - 1) / ROWS;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (long output = 0; output < num_outputs; output += OUTPUTS)
      for (long group = 0; group < groups; ++group) { // of nearly equal size: 8 and 8 rather than 12 and 4
        const long first = chunk + chunk_rows * group / groups, end = chunk + chunk_rows * (group + 1) / groups;
        // The last group of several computes on cached weights and leaves the memory free for the next block's.
        const long ahead = group > 0 && group == groups - 1 ? OUTPUTS * width : 0;
        multiply_block<Kind>(end - first, inputs + first * width, weight + output * width, width, ahead,
                             [&](long row, long lane, auto sums) { finish(first + row, output + lane, sums); });
      }
  }
}

inline __m512 with_bias(__m512 values, const float *bias, long output) {
  return bias ? _mm512_add_ps(values, load(bias + output)) : values;
}

template <class T, class Kind>
void linear(const T *inputs, const typename Kind::Weight *weight, const float *bias, T *outputs, long rows, long width,
            long num_outputs, int threads) {
  std::vector<typename Kind::Input> widened;
  const auto *from = reinterpret_cast<const typename Kind::Input *>(inputs);
  if constexpr (sizeof(T) != sizeof(typename Kind::Input)) {
    widened.resize(rows * width);
    for (long i = 0; i < rows * width; i += LANES)
      store(widened.data() + i, load(inputs + i));
    from = widened.data();
  }
  multiply<Kind>(from, weight, rows, width, num_outputs, threads, [=](long row, long output, __m512 sums) {
    store(outputs + row * num_outputs + output, with_bias(sums, bias, output));
  });
}

#ifdef __AVX512VNNI__
/// Each input row is rounded to 8 bits around a zero point of 128 with a scale of its own, that of its largest entry.
/// `zero` is what the zero point adds to the sums of an output.
template <class T>
void linear_int8(const T *inputs, const int8_t *weight, const float *scale, const int32_t *zero, const float *bias,
                 T *outputs, long rows, long width, long num_outputs, int threads) {
  std::vector<uint8_t> levels(rows * width);
  std::vector<float> row_scales(rows);
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1 && rows >= CHUNK)
  for (long row = 0; row < rows; ++row) {
    const T *from = inputs + row * width;
    __m512i largest = _mm512_setzero_si512(); // as bits, where a NaN is above everything
    for (long k = 0; k < width; k += LANES)
      largest = _mm512_max_epu32(largest, _mm512_castps_si512(_mm512_abs_ps(load(from + k))));
    const uint32_t bits = _mm512_reduce_max_epu32(largest);
    float value;
    std::memcpy(&value, &bits, sizeof value);
    row_scales[row] = value / 127;
    const __m512 factor = _mm512_set1_ps(value > 0 ? 127 / value : 0);
    for (long k = 0; k < width; k += LANES) {
      const __m512i level = _mm512_cvtps_epi32(_mm512_mul_ps(load(from + k), factor));
      const __m128i shifted = _mm512_cvtepi32_epi8(_mm512_add_epi32(level, _mm512_set1_epi32(128)));
      _mm_storeu_si128(reinterpret_cast<__m128i *>(levels.data() + row * width + k), shifted);
    }
  }
  const float *scales = row_scales.data();
  multiply<Int8>(levels.data(), weight, rows, width, num_outputs, threads, [=](long row, long output, __m512i sums) {
    const __m512 products = _mm512_cvtepi32_ps(_mm512_sub_epi32(sums, _mm512_loadu_si512(zero + output)));
    const __m512 factor = _mm512_mul_ps(load(scale + output), _mm512_set1_ps(scales[row]));
    store(outputs + row * num_outputs + output, with_bias(_mm512_mul_ps(products, factor), bias, output));
  });
}
#endif

// ---- Between the products -------------------------------------------------------------------------------------------

template <class T> void rms_norm(const T *inputs, const T *weight, T *outputs, long rows, long width, float eps) {
  for (long row = 0; row < rows; ++row, inputs += width, outputs += width) {
    __m512 squares = _mm512_setzero_ps();
    for (long k = 0; k < width; k += LANES) {
      const __m512 values = load(inputs + k);
      squares = _mm512_fmadd_ps(values, values, squares);
    }
    const __m512 factor = _mm512_set1_ps(1 / __builtin_sqrtf(_mm512_reduce_add_ps(squares) / width + eps));
    for (long k = 0; k < width; k += LANES) {
      store(outputs + k, _mm512_mul_ps(load(inputs + k), factor)); // rounded, as the weight is multiplied after a cast
      store(outputs + k, _mm512_mul_ps(load(outputs + k), load(weight + k)));
    }
  }
}

template <class T> void swiglu(const T *gate_up, T *outputs, long rows, long width) {
  for (long row = 0; row < rows; ++row, gate_up += 2 * width, outputs += width)
    for (long k = 0; k < width; k += LANES) {
      const __m512 gate = load(gate_up + k);
      const __m512 below = _mm512_add_ps(_mm512_set1_ps(1), exp(_mm512_sub_ps(_mm512_setzero_ps(), gate)));
      store(outputs + k, _mm512_mul_ps(_mm512_div_ps(gate, below), load(gate_up + width + k)));
    }
}

/// Half-split rotary embedding of one head, in fp32.
template <class T> void rotate(const T *from, const float *cos, const float *sin, float *to, long head_dim, float scale) {
  const long half = head_dim / 2;
  for (long j = 0; j < half; j += LANES) {
    // `half` need not be a multiple of LANES: the last step goes back to end there.
    const long i = std::min(j, half - LANES);
    const __m512 first = load(from + i), second = load(from + half + i), factor = _mm512_set1_ps(scale);
    const __m512 turned_first = _mm512_fnmadd_ps(second, load(sin + i), _mm512_mul_ps(first, load(cos + i)));
    const __m512 turned_second =
        _mm512_fmadd_ps(first, load(sin + half + i), _mm512_mul_ps(second, load(cos + half + i)));
    store(to + i, _mm512_mul_ps(turned_first, factor));
    store(to + half + i, _mm512_mul_ps(turned_second, factor));
  }
}

/// Sum of `length` values (length, head_dim) by weight, times `factor`. `COUNT` registers of it are made at a time.
template <long COUNT, class T>
void mix(const float *weights, const T *values, T *outputs, long length, long head_dim, float factor) {
  for (long d = 0; d < head_dim; d += COUNT * LANES) {
    __m512 sums[2][COUNT] = {}; // of the even and of the odd values: twice as many chains of additions
    for (long j = 0; j < length; j += 2)
#pragma GCC unroll 2
      for (long odd = 0; odd < 2; ++odd) {
        const __m512 weight = _mm512_set1_ps(weights[j + odd]); // 0 behind the end, where there is another row
        const T *row = values + std::min(j + odd, length - 1) * head_dim + d;
#pragma GCC unroll 8
        for (long i = 0; i < COUNT; ++i)
          sums[odd][i] = _mm512_fmadd_ps(weight, load(row + i * LANES), sums[odd][i]);
      }
    for (long i = 0; i < COUNT; ++i)
      store(outputs + d + i * LANES, _mm512_mul_ps(_mm512_add_ps(sums[0][i], sums[1][i]), _mm512_set1_ps(factor)));
  }
}

/// Attention of the query at `position` over the keys and values (batch, kv_heads, slots, head_dim) of the positions
/// up to it, the last of which are written here. `qkv` is (batch, heads + 2 * kv_heads, head_dim).
template <class T>
void attention(const T *qkv, const float *cos, const float *sin, T *keys, T *values, T *outputs, long batch, long heads,
               long kv_heads, long head_dim, long slots, long position, int threads) {
  const long group = heads / kv_heads, length = position + 1;
  const float scale = 1 / __builtin_sqrtf(head_dim);
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
  for (long i = 0; i < batch * kv_heads; ++i) {
    const T *sample = qkv + i / kv_heads * (heads + 2 * kv_heads) * head_dim;
    const long kv_head = i % kv_heads;
    T *key = keys + i * slots * head_dim, *value = values + i * slots * head_dim;
    std::vector<float> buffer(head_dim + length + LANES);
    float *query = buffer.data(), *scores = query + head_dim;

    rotate(sample + (heads + kv_head) * head_dim, cos, sin, query, head_dim, 1);
    for (long d = 0; d < head_dim; d += LANES)
      store(key + position * head_dim + d, load(query + d));
    std::memcpy(value + position * head_dim, sample + (heads + kv_heads + kv_head) * head_dim, head_dim * sizeof(T));

    for (long head = kv_head * group; head < (kv_head + 1) * group; ++head) {
      rotate(sample + head * head_dim, cos, sin, query, head_dim, scale);
      float largest = -__builtin_inff();
      for (long j = 0; j < length; ++j) {
        __m512 product = _mm512_setzero_ps();
        for (long d = 0; d < head_dim; d += LANES) {
          _mm_prefetch(value + j * head_dim + d, _MM_HINT_T1); // read next
          product = _mm512_fmadd_ps(load(key + j * head_dim + d), load(query + d), product);
        }
        scores[j] = _mm512_reduce_add_ps(product);
        largest = std::max(largest, scores[j]);
      }
      std::fill(scores + length, scores + length + LANES, -__builtin_inff());
      __m512 total = _mm512_setzero_ps();
      for (long j = 0; j < length; j += LANES) {
        const __m512 weights = exp(_mm512_sub_ps(load(scores + j), _mm512_set1_ps(largest)));
        store(scores + j, weights);
        total = _mm512_add_ps(total, weights);
      }
      T *output = outputs + (i / kv_heads * heads + head) * head_dim;
      const float factor = 1 / _mm512_reduce_add_ps(total);
      if (head_dim % (4 * LANES) == 0)
        mix<4>(scores, value, output, length, head_dim, factor);
      else
        mix<1>(scores, value, output, length, head_dim, factor);
    }
  }
}

// ---- Lookup of codes ------------------------------------------------------------------------------------------------

/// For `COUNT` rows of `latents` (rows, dim) the code of the largest product, the first of equal ones. The codebook is
/// (size / LANES, dim, LANES). Each lane keeps its best code; the lanes are compared at the end.
template <long COUNT> void nearest_of(const float *latents, const float *codebook, int64_t *codes, long size, long dim) {
  __m512 best[COUNT];
  __m512i best_block[COUNT] = {};
  for (long row = 0; row < COUNT; ++row)
    best[row] = _mm512_set1_ps(-__builtin_inff());
  for (long block = 0; block < size / LANES; ++block) {
    __m512 products[COUNT] = {};
    for (long d = 0; d < dim; ++d, codebook += LANES) {
      const __m512 entries = load(codebook);
#pragma GCC unroll 8
      for (long row = 0; row < COUNT; ++row)
        products[row] = _mm512_fmadd_ps(entries, _mm512_set1_ps(latents[row * dim + d]), products[row]);
    }
    const __m512i this_block = _mm512_set1_epi32(block);
#pragma GCC unroll 8
    for (long row = 0; row < COUNT; ++row) {
      const __mmask16 better = _mm512_cmp_ps_mask(products[row], best[row], _CMP_GT_OQ);
      best[row] = _mm512_mask_mov_ps(best[row], better, products[row]);
      best_block[row] = _mm512_mask_mov_epi32(best_block[row], better, this_block);
    }
  }
  for (long row = 0; row < COUNT; ++row) {
    const __mmask16 equal = _mm512_cmp_ps_mask(best[row], _mm512_set1_ps(_mm512_reduce_max_ps(best[row])), _CMP_EQ_OQ);
    const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i code = _mm512_add_epi32(_mm512_slli_epi32(best_block[row], 4), lanes);
    codes[row] = equal ? _mm512_mask_reduce_min_epi32(equal, code) : 0; // none is equal where all are NaN
  }
}

/// Calls `run` with a number of the type that cpu_kernels.py gives this code.
template <class Run> void with_type(int dtype, Run run) {
  if (dtype == 0)
    run(float{});
  else if (dtype == 1)
    run(bfloat16{});
  else
    run(float16{});
}

template <class T> struct KindOf {
  using type = Widened<T>;
};
template <> struct KindOf<bfloat16> {
  using type = Bfloat16;
};

} // namespace

// ---- What cpu_kernels.py calls. Numbers of type `dtype` come as `void`. ---------------------------------------------

extern "C" {

long outputs_of_block() { return OUTPUTS; }

/// DEPTH of the products of this type.
long depth(int dtype) {
  long found = 0;
  with_type(dtype, [&](auto number) { found = KindOf<decltype(number)>::type::DEPTH; });
  return found;
}

void linear(int dtype, const void *inputs, const void *weight, const float *bias, void *outputs, long rows, long width,
            long num_outputs, int threads) {
  with_type(dtype, [=](auto number) {
    using T = decltype(number);
    using Kind = typename KindOf<T>::type;
    linear<T, Kind>(static_cast<const T *>(inputs), static_cast<const typename Kind::Weight *>(weight), bias,
                    static_cast<T *>(outputs), rows, width, num_outputs, threads);
  });
}

#ifdef __AVX512VNNI__
long depth_int8() { return Int8::DEPTH; }

void linear_int8(int dtype, const void *inputs, const int8_t *weight, const float *scale, const int32_t *zero,
                 const float *bias, void *outputs, long rows, long width, long num_outputs, int threads) {
  with_type(dtype, [=](auto number) {
    using T = decltype(number);
    linear_int8(static_cast<const T *>(inputs), weight, scale, zero, bias, static_cast<T *>(outputs), rows, width,
                num_outputs, threads);
  });
}
#endif

void rms_norm(int dtype, const void *inputs, const void *weight, void *outputs, long rows, long width, float eps) {
  with_type(dtype, [=](auto number) {
    using T = decltype(number);
    rms_norm(static_cast<const T *>(inputs), static_cast<const T *>(weight), static_cast<T *>(outputs), rows, width,
             eps);
  });
}

void swiglu(int dtype, const void *gate_up, void *outputs, long rows, long width) {
  with_type(dtype, [=](auto number) {
    using T = decltype(number);
    swiglu(static_cast<const T *>(gate_up), static_cast<T *>(outputs), rows, width);
  });
}

void attention(int dtype, const void *qkv, const float *cos, const float *sin, void *keys, void *values, void *outputs,
               long batch, long heads, long kv_heads, long head_dim, long slots, long position, int threads) {
  with_type(dtype, [=](auto number) {
    using T = decltype(number);
    attention(static_cast<const T *>(qkv), cos, sin, static_cast<T *>(keys), static_cast<T *>(values),
              static_cast<T *>(outputs), batch, heads, kv_heads, head_dim, slots, position, threads);
  });
}

void nearest(const float *latents, const float *codebook, int64_t *codes, long rows, long size, long dim, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
  for (long row = 0; row < rows; row += ROWS)
    if (rows - row >= ROWS)
      nearest_of<ROWS>(latents + row * dim, codebook, codes + row, size, dim);
    else
      for (long i = row; i < rows; ++i)
        nearest_of<1>(latents + i * dim, codebook, codes + i, size, dim);
}

} // extern "C"
