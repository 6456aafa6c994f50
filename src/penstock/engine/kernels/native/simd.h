/* What several kernels do with sixteen numbers at once. */
#ifndef PENSTOCK_SIMD_H
#define PENSTOCK_SIMD_H

#include <immintrin.h>
#include <stdint.h>
#include <stdlib.h>

typedef uint16_t bf16;

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

/* The first `count` of sixteen lanes; all of them from sixteen on, none below one. */
INLINE __mmask16 lanes(int64_t count) {
  return count >= 16 ? 0xffff : count <= 0 ? 0 : (__mmask16)((1u << count) - 1);
}

INLINE __m512 load_bf16(const bf16 *from, __mmask16 mask) {
  __m512i wide = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, from));
  return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

INLINE void store_bf16(bf16 *to, __m512 x, __mmask16 mask) {
  _mm256_mask_storeu_epi16(to, mask, (__m256i)_mm512_cvtneps_pbh(x));
}

INLINE float from_bf16(bf16 x) {
  union { uint32_t bits; float value; } both = {(uint32_t)x << 16};
  return both.value;
}

INLINE bf16 to_bf16(float x) {
  return (bf16)_mm_extract_epi16((__m128i)_mm_cvtneps_pbh(_mm_set_ss(x)), 0);
}

/* 2^x to about 2e-7 of itself; 0 for -infinity, and for what is no number. Taylor's series of 2^f, |f| <= 1/2. */
INLINE __m512 exp2_16(__m512 x) {
  x = _mm512_max_ps(x, _mm512_set1_ps(-200.0f));
  __m512 whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  __m512 f = _mm512_sub_ps(x, whole);
  __m512 p = _mm512_set1_ps(1.5403530e-4f);
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.3333558e-3f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(9.6181291e-3f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(5.5504109e-2f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(2.4022651e-1f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(6.9314718e-1f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0f));
  return _mm512_scalef_ps(p, whole);
}

/* x / (1 + e^-x) */
INLINE __m512 silu_16(__m512 x) {
  __m512 e = exp2_16(_mm512_mul_ps(x, _mm512_set1_ps(-1.44269504f)));
  return _mm512_div_ps(x, _mm512_add_ps(_mm512_set1_ps(1.0f), e));
}

/* sum += four unsigned bytes of `u` times four signed ones of `s`, in each lane. In
   assembly, since compilers copy the sum of the intrinsic around. */
INLINE void dot_bytes(__m512i *sum, __m512i u, __m512i s) {
  __asm__("vpdpbusd %2, %1, %0" : "+v"(*sum) : "v"(u), "v"(s));
}

/* Room of one thread's own that lasts until it asks again; grows, and is kept. */
static inline void *scratch(size_t bytes) {
  static _Thread_local void *room;
  static _Thread_local size_t size;
  if (bytes > size) {
    free(room);
    size = (bytes + 4095) & ~(size_t)4095;
    room = aligned_alloc(64, size);
    if (room == NULL) abort();
  }
  return room;
}

#endif
